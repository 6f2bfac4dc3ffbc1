"""Predicting the next token."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from sublayer.data.objective.base import OBJECTIVES, Objective, ObjectiveConfig, RowShape, Stack, Stretch
from sublayer.data.permutation import Words
from sublayer.data.rows import Contiguous, Rows, WholeDocuments

if TYPE_CHECKING:
    from sublayer.data.packing import Batch
    from sublayer.data.shards import Shards, TokenStream
    from sublayer.data.split import Side
    from sublayer.data.tokenizer import Tokenizer


@OBJECTIVES.register
class CausalConfig(ObjectiveConfig):
    """Each token is predicted from those before it."""

    paper: ClassVar[str] = "Radford et al. 2018, Improving Language Understanding by Generative Pre-Training, eq. 1"
    stacks: ClassVar[tuple[Stack, ...]] = ("decoder",)
    tells_bits: ClassVar[bool] = True
    null: ClassVar[Literal["bigram", "marginal"]] = "bigram"

    kind: Literal["causal"] = "causal"

    def unfit(self, stack: Stack) -> str:
        if stack == "encoder":
            return "predicts the next token, which an encoder would see"
        return "gives an encoder nothing to read" if stack == "encoder_decoder" else ""

    def cut_off(self, sequence_length: int, side: "Side") -> str:
        return super().cut_off(sequence_length + 1, side)

    def shape(self, sequence_length: int, isolate_documents: bool) -> RowShape:
        return RowShape(sequence_length, packed=isolate_documents)

    def build(self, tokenizer: "Tokenizer", sequence_length: int, isolate_documents: bool) -> Objective:
        return Causal(tokenizer.end_id, sequence_length, isolate_documents)


class Causal(Objective):
    """Rows of T inputs, and as targets the tokens after each."""

    def __init__(self, end_id: int, length: int, isolate_documents: bool) -> None:
        self._end_id, self._length, self._isolate = end_id, length, isolate_documents
        self.needed = length + 1

    def rows(self, shards: "Shards", stream: "TokenStream") -> Rows:
        marks_N = shards.marks(stream)
        if marks_N is None:
            return Contiguous(stream.tokens, self._length, full=stream.side == "training")
        lengths, scored = (shards.documents(stream, column) for column in ("lengths", "scored"))
        return WholeDocuments(lengths, scored, marks_N, self._length)

    def batch(self, stretches: Sequence[Stretch], key_B: Words | None) -> "Batch":
        from sublayer.data.packing import packed

        tokens, marks, *_ = zip(*stretches, strict=True)
        return packed(tokens, self._length, self._end_id, self._isolate, marks)
