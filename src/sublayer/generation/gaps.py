"""Texts with gaps, filled by an encoder.

Shapes: T tokens, N gaps, V vocabulary, C candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import torch

from sublayer.data import Tokenizer
from sublayer.data.document import Segment
from sublayer.data.tokenizer.alphabet import MASKS
from sublayer.errors import ConfigError, DataError
from sublayer.generation.evaluating import evaluating
from sublayer.generation.prompts import check_lengths, check_vocabulary, finite
from sublayer.generation.texts import texts_of
from sublayer.model import Transformer


@dataclass(frozen=True)
class Guess:
    """A token for a gap.

    Attributes:
        token: its id.
        text: what it reads.
        probability: of it.
    """

    token: int
    text: str
    probability: float


@dataclass(frozen=True)
class Filled:
    """A text whose gaps are filled; as a string, that text.

    Attributes:
        text: with the most probable token in each gap.
        gaps: of each gap the most probable tokens, the first one first.  Each gap is judged by itself, with all gaps
            still open (Devlin et al. 2018, section 3.1).
    """

    text: str
    gaps: tuple[tuple[Guess, ...], ...]

    def __str__(self) -> str:
        return self.text


@overload
def fill_masks(model: Transformer, tokenizer: Tokenizer, text: str, n_best: int = 5) -> Filled: ...
@overload
def fill_masks(model: Transformer, tokenizer: Tokenizer, text: list[str], n_best: int = 5) -> list[Filled]: ...
def fill_masks(
    model: Transformer, tokenizer: Tokenizer, text: str | list[str], n_best: int = 5
) -> Filled | list[Filled]:
    """Fill the gaps of a text, or of each of several, on the device that the model is on.

    Args:
        model: an encoder with a head over tokens, trained on masked tokens; put in evaluation mode for the while.
        tokenizer: the model's, with a token that hides others.
        text: `[MASK]` or `<mask>` stands for a token that is left out; names of other special tokens are text.  Or a
            list of texts.
        n_best: how many tokens are told of each gap, at least 1.

    Returns:
        a Filled for a text; a list of them, in order, for a list.

    Raises:
        ConfigError: when the model is no encoder with a head over tokens, or `n_best` is less than 1.
        DataError: when what is given is no text, has no gap or is longer than the model's positions, or the tokenizer
            has no token that hides others or is not the model's.
        RunError: when the model's logits are not finite numbers.
    """
    if model.config.stack != "encoder" or not model.config.head.by_token:
        raise ConfigError(
            "stack: gaps are filled by an encoder with a head over tokens, which this model is not; train one with "
            "stack: encoder and data.objective: masked."
        )
    if not isinstance(n_best, int) or n_best < 1:
        raise ConfigError(f"n_best: must be an integer of at least 1, not {n_best!r}.")
    check_vocabulary(model.config, tokenizer)
    if not tokenizer.has_any(MASKS):
        raise DataError(f"the tokenizer has no token {' or '.join(MASKS)}, so the model knows no gaps.")
    mask = tokenizer.special_id(MASKS)
    texts = texts_of(text, "to fill")
    rows = _encoded(texts, tokenizer, mask)
    check_lengths(rows, model.config.longest(), model.config, "text")
    for number, ids in enumerate(rows):
        if mask not in ids:
            which = "the text" if len(rows) == 1 else f"text {number + 1} of {len(rows)}"
            raise DataError(f"{which} has no gap; write {tokenizer.name(mask)} where a token is left out.")
    with evaluating(model), torch.inference_mode():
        filled = [_filled(model, tokenizer, ids, mask, n_best) for ids in rows]
    return filled[0] if isinstance(text, str) else filled


def _encoded(texts: Sequence[str], tokenizer: Tokenizer, mask: int) -> list[list[int]]:
    """The tokens of each text, with the token that hides others where its name stands."""
    name = tokenizer.name(mask)
    # The token takes the spaces before it (as RoBERTa's does), or those behind.
    before, behind = tokenizer.encode_batch([f" {name}", f"{name} "], start=False, special=True)
    rows = []
    for text in texts:
        for other in MASKS:
            text = text.replace(other, name)
        first, *others = text.split(name)
        pieces = [first, *(other.lstrip() if behind == [mask] else other for other in others)]
        if before == [mask]:
            pieces[:-1] = [piece.rstrip() for piece in pieces[:-1]]
        segments = [Segment(pieces[0])]
        for piece in pieces[1:]:
            segments += [Segment(name, special=True), Segment(piece)]
        rows.append(tokenizer.encode_document([segment for segment in segments if segment.text]))
    return rows


def _filled(model: Transformer, tokenizer: Tokenizer, ids: list[int], mask: int, n_best: int) -> Filled:
    """One text at a time, whose logits are as many as its tokens times V."""
    places = [place for place, token in enumerate(ids) if token == mask]
    logits = model(torch.tensor([ids], device=model.device)).logits
    assert logits is not None
    probs_NV = finite(logits[0, places, : tokenizer.vocab_size]).softmax(-1)
    best_NC, token_NC = probs_NV.topk(min(n_best, probs_NV.shape[1]))
    gaps = tuple(
        tuple(Guess(token, tokenizer.decode([token]), p) for token, p in zip(*row, strict=True))
        for row in zip(token_NC.tolist(), best_NC.tolist(), strict=True)
    )
    written = list(ids)
    for place, guesses in zip(places, gaps, strict=True):
        written[place] = guesses[0].token
    return Filled(tokenizer.decode(written), gaps)
