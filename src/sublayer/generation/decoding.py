"""The decoding loop: one pass over the prompts, then one token a step from what the state remembers.

Shapes: B rows still going, T tokens, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sublayer.data import Tokenizer
from sublayer.generation.config import GenerationConfig
from sublayer.generation.prompts import begin, usable
from sublayer.generation.sampling import log_probabilities, next_tokens
from sublayer.generation.written import Reason, Written
from sublayer.model import Transformer


@dataclass(frozen=True)
class Event:
    """One token drawn.

    Attributes:
        row: which prompt it goes on from.
        token: its id.
        text: the text that it sets free; the texts of a row's events join to its completion.
        reason: why the row ends with it; None while it goes on.
        log_probability: of it, in nats, as the model has it; not looked at when events are compared, as it is rounded.
    """

    row: int
    token: int
    text: str
    reason: Reason | None = None
    log_probability: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class _Row:
    """A prompt that is still being gone on from."""

    number: int
    written: Written
    random: np.random.Generator


@torch.inference_mode()
def decode(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    seeds: Sequence[int],
) -> Iterator[Event]:
    """Go on from every prompt, all rows a token at a time, until each has ended.

    Rows that have ended leave the batch.  The model should be in evaluation mode.

    Args:
        model: a decoder, or an encoder_decoder, of which the prompts are the sources.
        tokenizer: the model's; no token is drawn beyond its own.
        prompts: token ids; an empty prompt is the token that begins every document.
        config: how tokens are drawn; its seed is not looked at.
        seeds: of each prompt's own draws (`sampling.row_seeds`).

    Yields:
        every token drawn, each row's in order; the last one of a row says why it ends.

    Raises:
        ConfigError: when the model is an encoder or tells classes, or a part of it cannot be decoded exactly token by
            token.
        DataError: when a prompt is longer than the positions go, or the tokenizer has tokens that the model has not.
        RunError: when the model's logits are not numbers.
    """
    if not prompts:
        return
    begun = begin(model, tokenizer, prompts, config)
    state, logits_BV, seen_BV = begun.state, begun.logits_BV, begun.seen_BV
    rows = [
        _Row(number, Written(tokenizer, n_left, config), np.random.default_rng(seed))
        for number, (n_left, seed) in enumerate(zip(begun.n_left, seeds, strict=True))
    ]
    while True:
        uniforms = [row.random.random() for row in rows]
        tokens_B = next_tokens(logits_BV, config, uniforms, seen_BV)
        events = _events(rows, tokens_B, logits_BV)
        yield from events

        going = [place for place, event in enumerate(events) if event.reason is None]
        if not going:
            return
        if seen_BV is not None:
            seen_BV.scatter_(1, tokens_B[:, None], True)
        if len(going) < len(rows):
            rows = [rows[place] for place in going]
            state.select(going)
            tokens_B = tokens_B[going]
            seen_BV = None if seen_BV is None else seen_BV[going]
        logits_BV = usable(model(tokens_B[:, None], state=state).logits, tokenizer)


def _events(rows: list[_Row], tokens_B: Tensor, logits_BV: Tensor) -> list[Event]:
    """Each row's next token, written down."""
    told = zip(rows, tokens_B.tolist(), log_probabilities(logits_BV, tokens_B).tolist(), strict=True)
    return [Event(row.number, token, *row.written.take(token), log_p) for row, token, log_p in told]
