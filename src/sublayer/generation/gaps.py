"""Texts with gaps, filled by an encoder.

Shapes: T tokens, N gaps, V vocabulary, C candidates.
"""

from dataclasses import dataclass

import torch

from sublayer.data import Tokenizer
from sublayer.data.tokenizer.alphabet import MASKS
from sublayer.errors import ConfigError, DataError
from sublayer.generation.evaluating import evaluating
from sublayer.generation.prompts import check_lengths, check_vocabulary, finite
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


def fill_masks(model: Transformer, tokenizer: Tokenizer, text: str, n_best: int = 5) -> Filled:
    """Fill the gaps of a text, on the device that the model is on.

    Args:
        model: an encoder with a head over tokens, trained on masked tokens; put in evaluation mode for the while.
        tokenizer: the model's, with a token that hides others.
        text: `[MASK]` or `<mask>` stands for a token that is left out.
        n_best: how many tokens are told of each gap.

    Raises:
        ConfigError: when the model is no encoder with a head over tokens.
        DataError: when the text has no gap or is longer than the model's positions, or the tokenizer has no token that
            hides others or is not the model's.
        RunError: when the model's logits are not finite numbers.
    """
    if model.config.stack != "encoder" or not model.config.head.by_token:
        raise ConfigError(
            "stack: gaps are filled by an encoder with a head over tokens, which this model is not; train one with "
            "stack: encoder and data.objective: masked."
        )
    check_vocabulary(model.config, tokenizer)
    if not tokenizer.has_any(MASKS):
        raise DataError(f"the tokenizer has no token {' or '.join(MASKS)}, so the model knows no gaps.")
    mask = tokenizer.special_id(MASKS)
    for name in MASKS:
        text = text.replace(name, tokenizer.name(mask))
    (ids,) = tokenizer.encode_batch([text], special=True)
    check_lengths([ids], model.config.longest(), model.config, "text")
    places = [place for place, token in enumerate(ids) if token == mask]
    if not places:
        raise DataError(f"the text has no gap; write {tokenizer.name(mask)} where a token is left out.")
    with evaluating(model), torch.inference_mode():
        logits = model(torch.tensor([ids], device=model.device)).logits
    assert logits is not None
    probs_NV = finite(logits[0, places, : tokenizer.vocab_size]).softmax(-1)
    best_NC, token_NC = probs_NV.topk(min(n_best, probs_NV.shape[1]))
    gaps = tuple(
        tuple(Guess(token, tokenizer.decode([token]), p) for token, p in zip(*row, strict=True))
        for row in zip(token_NC.tolist(), best_NC.tolist(), strict=True)
    )
    for place, guesses in zip(places, gaps, strict=True):
        ids[place] = guesses[0].token
    return Filled(tokenizer.decode(ids), gaps)
