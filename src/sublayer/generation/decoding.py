"""The decoding loop: one pass over the prompts, then one token a step from what the state remembers.

Shapes: B rows still going, T tokens, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sublayer.data import Tokenizer
from sublayer.errors import ConfigError, DataError, RunError
from sublayer.generation.config import GenerationConfig
from sublayer.generation.sampling import next_tokens
from sublayer.generation.stop import StopStrings
from sublayer.model import Layout, ModelConfig, Transformer

Reason = Literal["end", "stop", "length"]
"""Why a completion ends: the model ended the document, a stop string came, or no more tokens may."""


@dataclass(frozen=True)
class Event:
    """One token drawn.

    Attributes:
        row: which prompt it goes on from.
        token: its id.
        text: the text that it sets free; the texts of a row's events join to its completion.
        reason: why the row ends with it; None while it goes on.
    """

    row: int
    token: int
    text: str
    reason: Reason | None = None


class _Row:
    """A prompt that is still being gone on from."""

    def __init__(self, number: int, n_left: int, seed: int, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self.number = number
        self.n_left = n_left
        self.random = np.random.default_rng(seed)
        self._end_id = tokenizer.end_id
        self._stream = tokenizer.stream()
        self._stop = StopStrings(stop)

    def take(self, token: int) -> Event:
        """Go on by one token."""
        self.n_left -= 1
        text = self._stop.push(self._stream.push(token))
        reason: Reason | None = None
        if token == self._end_id:
            reason = "end"
        elif self.n_left == 0:
            reason = "length"
        if reason is not None:
            text += self._stop.push(self._stream.finish())
        if self._stop.found:
            reason = "stop"
        elif reason is not None:
            text += self._stop.finish()
        return Event(self.number, token, text, reason)


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
        model: a decoder.
        tokenizer: the model's; no token is drawn beyond its own.
        prompts: token ids; an empty prompt begins with the token that begins every document.
        config: how tokens are drawn; its seed is not looked at.
        seeds: of each prompt's own draws (`sampling.row_seeds`).

    Yields:
        every token drawn, each row's in order; the last one of a row says why it ends.

    Raises:
        ConfigError: when the model is an encoder, or a part of it cannot be decoded exactly token by token.
        DataError: when a prompt is longer than the positions go, or the tokenizer has tokens that the model has not.
        RunError: when the model's logits are not numbers.
    """
    limit = _check(model.config, tokenizer)
    if not prompts:
        return
    begun = [list(prompt) or [tokenizer.end_id] for prompt in prompts]
    lengths = [len(prompt) for prompt in begun]
    _check_lengths(lengths, limit, model.config)
    # The last token drawn is never read, so it needs no position of its own.
    n_left = [config.max_tokens if limit is None else min(config.max_tokens, limit + 1 - n) for n in lengths]
    capacity = max(n + left - 1 for n, left in zip(lengths, n_left, strict=True))
    state = model.init_state(len(prompts), capacity)
    rows = [
        _Row(number, left, seed, tokenizer, config.stop)
        for number, (left, seed) in enumerate(zip(n_left, seeds, strict=True))
    ]

    tokens_BT = _padded(begun, tokenizer.end_id, model.device)
    layout = None if len(set(lengths)) == 1 else Layout.ragged(lengths, model.device)
    seen_BV = _seen(tokens_BT, tokenizer) if config.repetition_penalty != 1 else None
    last_B = torch.tensor(lengths, device=model.device) - 1
    logits_BV = model(tokens_BT, layout, state=state, logits_at=last_B).logits[:, 0]
    while True:
        logits_BV = logits_BV[:, : tokenizer.vocab_size]
        _refuse_non_numbers(logits_BV)
        uniforms = [row.random.random() for row in rows]
        tokens_B = next_tokens(logits_BV, config, uniforms, seen_BV)
        events = [row.take(token) for row, token in zip(rows, tokens_B.tolist(), strict=True)]
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
        logits_BV = model(tokens_B[:, None], state=state).logits[:, -1]


def _check(config: ModelConfig, tokenizer: Tokenizer) -> int | None:
    """How many positions the model has, None for no limit; refuses one that cannot go on from a text."""
    if config.stack != "decoder":
        raise ConfigError(f"stack: an {config.stack} does not generate text; use a model with stack: decoder.")
    exact = config.cache_exact()
    if exact.reason:
        raise ConfigError(f"the model cannot generate token by token: {exact.reason.rstrip('.')}; choose other parts.")
    if config.vocab_size is not None and tokenizer.vocab_size > config.vocab_size:
        raise DataError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, but the model only {config.vocab_size}; "
            "use the one that the model was trained with."
        )
    return exact.length


def _check_lengths(lengths: list[int], limit: int | None, config: ModelConfig) -> None:
    if limit is None or max(lengths) <= limit:
        return
    number = next(number for number, length in enumerate(lengths) if length > limit)
    which = "the prompt" if len(lengths) == 1 else f"prompt {number + 1} of {len(lengths)}"
    shape = config.shape
    parts = [part for layer in config.resolve() for _, part in layer.parts()]
    ending = next(part for part in parts if part.cache_exact(shape).length == limit)
    name = f"{ending.kind_name()} {ending.registry.family}"
    end = f"{name}s end at" if limit == config.longest() else f"decoding is exact, with its {name}, up to"
    raise DataError(f"{which} has {lengths[number]} tokens, but the model's {end} {limit}; shorten it.")


def _padded(prompts: list[list[int]], filler: int, device: torch.device) -> Tensor:
    """The prompts as one tensor [B, T], filled up at their end."""
    longest = max(map(len, prompts))
    return torch.tensor([prompt + [filler] * (longest - len(prompt)) for prompt in prompts], device=device)


def _seen(tokens_BT: Tensor, tokenizer: Tokenizer) -> Tensor:
    """True at the tokens of each prompt, [B, V].

    Not at the end token, though a prompt begins with it: a penalty on it would put off the end of every text.  Prompts
    may be filled up with it for that reason.
    """
    seen_BV = torch.zeros(len(tokens_BT), tokenizer.vocab_size, dtype=torch.bool, device=tokens_BT.device)
    seen_BV.scatter_(1, tokens_BT, True)
    seen_BV[:, tokenizer.end_id] = False
    return seen_BV


def _refuse_non_numbers(logits_BV: Tensor) -> None:
    # One look at the largest finds NaN and infinity alike; −∞ is a legal way to forbid a token.
    if not bool(logits_BV.amax(-1).isfinite().all()):
        raise RunError(
            "the model's logits are not finite numbers, so its weights are damaged or its training diverged."
        )
