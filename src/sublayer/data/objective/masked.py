"""Predicting tokens that are hidden, from both sides.

Shape suffixes: B batch (rows), T length, V vocabulary.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from sublayer.config import Flag, Share
from sublayer.data.objective.base import OBJECTIVES, Objective, ObjectiveConfig, RowShape, Stack, Stretch
from sublayer.data.permutation import Words, mixed, uniform
from sublayer.data.rows import Contiguous, Rows, WholeDocuments
from sublayer.data.tokenizer.alphabet import MASKS
from sublayer.data.tokenizing import SCORED

if TYPE_CHECKING:
    from sublayer.data.packing import Batch
    from sublayer.data.shards import Shards, TokenStream
    from sublayer.data.tokenizer import Tokenizer

CHOICE, FATE, OTHER = range(3)
"""Numbers of the draws made for each place."""


@OBJECTIVES.register
class MaskedConfig(ObjectiveConfig):
    """Some tokens are hidden, and predicted from what stands on both sides of them.

    Each row has exactly its share of tokens chosen, at least one, or of whole words what comes nearest; special tokens
    never are, and of conversations and pairs only what is to be learnt.  Another epoch draws anew; of held-out text the
    same tokens are hidden every time.
    """

    paper: ClassVar[str] = "Devlin et al. 2018, BERT, §3.1; drawn anew each epoch: Liu et al. 2019, RoBERTa, §4.1"
    stacks: ClassVar[tuple[Stack, ...]] = ("encoder",)
    tells_accuracy: ClassVar[bool] = True
    ahead: ClassVar[int] = 0

    kind: Literal["masked"] = "masked"
    share: Annotated[Share, Field(gt=0, lt=1)] = 0.15
    """Share of a row's tokens that are to be predicted."""
    replaced_by_mask: Share = 0.8
    """Share of those that the mask token stands for."""
    replaced_by_other: Share = 0.1
    """Share of those that a random token stands for; what is left of them stays as it is."""
    whole_words: Flag = False
    """Choose whole words instead of single tokens; a word is a run of letters, digits and what is no ASCII, or a letter
    of a script that is written without spaces.  One that is longer than a row's share is divided."""

    @model_validator(mode="after")
    def _parts_of_a_whole(self) -> Self:
        if self.replaced_by_mask + self.replaced_by_other > 1 + 1e-9:
            raise ValueError(
                f"replaced_by_mask ({self.replaced_by_mask:g}) and replaced_by_other ({self.replaced_by_other:g}) are "
                "shares of the same tokens and come to more than 1; lower one"
            )
        return self

    def unfit(self, stack: Stack) -> str:
        if stack == "decoder":
            return "predicts a token from both sides, of which a decoder sees one"
        return "gives an encoder_decoder nothing to write" if stack == "encoder_decoder" else ""

    def special_tokens(self) -> tuple[tuple[str, ...], ...]:
        return (MASKS,)

    def shape(self, sequence_length: int, isolate_documents: bool) -> RowShape:
        return RowShape(sequence_length, packed=isolate_documents)

    def build(self, tokenizer: "Tokenizer", sequence_length: int, isolate_documents: bool) -> Objective:
        return Masked(self, tokenizer, sequence_length, isolate_documents)


class Masked(Objective):
    """Rows of T inputs with tokens hidden, and as targets those tokens at their own places."""

    draws: ClassVar[bool] = True

    def __init__(self, config: MaskedConfig, tokenizer: "Tokenizer", length: int, isolate_documents: bool) -> None:
        self._config, self._end_id, self._length, self._isolate = config, tokenizer.end_id, length, isolate_documents
        self._mask_id = tokenizer.special_id(MASKS)
        self._is_text_V = tokenizer.bytes_per_token > 0
        self._text_ids = np.flatnonzero(self._is_text_V)
        self._borders = tokenizer.borders if config.whole_words else None
        self.needed = length

    def rows(self, shards: "Shards", stream: "TokenStream") -> Rows:
        marks_N = shards.marks(stream)
        if marks_N is None:
            return Contiguous(stream.tokens, self._length, full=stream.side == "training", ahead=0)
        lengths, scored = (shards.documents(stream, column) for column in ("lengths", "scored"))
        return WholeDocuments(lengths, scored, marks_N, self._length, ahead=0)

    def batch(self, stretches: Sequence[Stretch], key_B: Words | None) -> "Batch":
        import torch

        from sublayer.data.packing import NOT_SCORED, Batch, laid_out

        assert key_B is not None
        tokens, marks, *_ = zip(*stretches, strict=True)
        laid = laid_out(tokens, marks, self._length, self._end_id, self._isolate)
        input_BT = laid.tokens_BT
        may_BT = self._is_text_V[input_BT]
        for row, mark_N in enumerate(marks):
            if mark_N is not None:
                may_BT[row, : len(mark_N)] &= mark_N & SCORED > 0
        place_T = np.arange(self._length, dtype=np.uint64)
        choice_BT, fate_BT, other_BT = (
            mixed(key_B[:, None], np.uint64(number) + np.uint64(3) * place_T) for number in (CHOICE, FATE, OTHER)
        )
        chosen_BT = self._chosen(input_BT, may_BT, choice_BT)
        targets_BT = np.where(chosen_BT, input_BT, NOT_SCORED)
        fate = uniform(fate_BT)
        masks, others = self._config.replaced_by_mask, self._config.replaced_by_other
        hidden_BT = chosen_BT & (fate < masks)
        replaced_BT = chosen_BT & (fate >= masks) & (fate < masks + others)
        random_BT = self._text_ids[(other_BT % np.uint64(len(self._text_ids))).astype(np.int64)]
        input_BT = np.where(replaced_BT, random_BT, np.where(hidden_BT, self._mask_id, input_BT))
        tokens_BT, positions, document, valid = laid._replace(tokens_BT=input_BT).tensors()
        return Batch(tokens_BT, torch.from_numpy(targets_BT), positions, document, valid)

    def _chosen(self, token_BT: NDArray[np.int64], may_BT: NDArray[np.bool_], draw_BT: Words) -> NDArray[np.bool_]:
        """Which places are to be predicted, [B, T]: those with the smallest draws, as many as a row's share."""
        number_B = may_BT.sum(1)
        wanted_B = np.where(number_B > 0, np.maximum(1, np.rint(self._config.share * number_B)), 0).astype(np.int64)
        wanted_B1 = wanted_B[:, None]
        if self._borders is not None:
            draw_BT = self._by_words(self._borders.begins(token_BT), wanted_B1, draw_BT)
        # Places that may not be chosen come last.
        order_BT = np.lexsort((draw_BT, ~may_BT), axis=1)
        chosen_BT = np.zeros_like(may_BT)
        np.put_along_axis(chosen_BT, order_BT, np.arange(token_BT.shape[1]) < wanted_B1, axis=1)
        if self._borders is not None:
            # Of the last word only a part may have been wanted; it is taken whole or left out, whichever is nearer.
            last_B1 = np.take_along_axis(draw_BT, np.take_along_axis(order_BT, wanted_B1 - 1, 1), 1)
            without_BT, with_BT = may_BT & (draw_BT < last_B1), may_BT & (draw_BT <= last_B1)
            is_nearer_B = 2 * wanted_B >= without_BT.sum(1) + with_BT.sum(1)
            chosen_BT = np.where(is_nearer_B[:, None], with_BT, without_BT)
        return chosen_BT

    def _by_words(self, begins_BT: NDArray[np.bool_], wanted_B1: NDArray[np.int64], draw_BT: Words) -> Words:
        """For every token of a word the draw of its first one; a word of more tokens than are wanted is divided."""
        place_T = np.arange(begins_BT.shape[1])
        first_BT = np.maximum.accumulate(np.where(begins_BT, place_T, 0), axis=1)
        most_B1 = np.maximum(wanted_B1, 1)
        return np.take_along_axis(draw_BT, place_T - (place_T - first_BT) % most_B1, axis=1)
