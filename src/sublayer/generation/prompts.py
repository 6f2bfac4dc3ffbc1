"""What stands before the first token: the prompts, read in one pass.

Shapes: B prompts, T tokens, S source tokens, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sublayer.data import Tokenizer
from sublayer.errors import ConfigError, DataError, RunError
from sublayer.generation.config import GenerationConfig
from sublayer.model import Layout, ModelConfig, Source, State, Transformer
from sublayer.model.position import PositionConfig


@dataclass(frozen=True)
class Begun:
    """Prompts that a model has read.

    Attributes:
        state: what it remembers of them.
        logits_BV: of the token after each, over the tokenizer's tokens.
        n_left: tokens that may follow each at most.
        seen_BV: True at the tokens that the repetition penalty is for; None where there is none.
    """

    state: State
    logits_BV: Tensor
    n_left: list[int]
    seen_BV: Tensor | None


def begin(
    model: Transformer, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], config: GenerationConfig
) -> Begun:
    """Read prompts, all in one pass.

    A decoder goes on from them.  Of an encoder_decoder they are the sources, and the decoder begins with the token that
    begins every document.

    Args:
        model: a decoder or an encoder_decoder.
        tokenizer: the model's.
        prompts: token ids; an empty prompt is the token that begins every document.
        config: how tokens are drawn.

    Raises:
        ConfigError, DataError, RunError: as `decode`.
    """
    limit = _check(model.config, tokenizer)
    start, device = tokenizer.end_id, model.device
    read = [list(prompt) or [start] for prompt in prompts]
    source = None
    if model.encoder is None:
        check_lengths(read, limit, model.config)
        begun = read
    else:
        check_lengths(read, model.config.longest(), model.config)
        source = Source(*batch(read, start, device))
        begun = [[start]] * len(read)
    # The last token drawn is never read, so it needs no position of its own.
    n_left = [config.max_tokens if limit is None else min(config.max_tokens, limit + 1 - len(ids)) for ids in begun]
    capacity = max(len(ids) + left - 1 for ids, left in zip(begun, n_left, strict=True))
    state = model.init_state(len(begun), capacity)
    tokens_BT, layout = batch(begun, start, device)
    last_B = torch.tensor([len(ids) for ids in begun], device=device) - 1
    logits = model(tokens_BT, layout, source=source, state=state, logits_at=last_B).logits
    seen_BV = _seen(tokens_BT, tokenizer) if config.repetition_penalty != 1 else None
    return Begun(state, usable(logits, tokenizer), n_left, seen_BV)


def usable(logits: Tensor | None, tokenizer: Tokenizer) -> Tensor:
    """The logits [B, V] of the last place, over the tokenizer's tokens, of logits [B, T, V].

    Raises:
        RunError: when they are not numbers.
    """
    assert logits is not None
    return finite(logits[:, -1, : tokenizer.vocab_size])


def finite(logits: Tensor) -> Tensor:
    """Logits [..., V] as they are.

    Raises:
        RunError: when they are not numbers.
    """
    # One look at the largest finds NaN and infinity alike; −∞ is a legal way to forbid a token.
    if not bool(logits.amax(-1).isfinite().all()):
        raise RunError(
            "the model's logits are not finite numbers, so its weights are damaged or its training diverged."
        )
    return logits


def _check(config: ModelConfig, tokenizer: Tokenizer) -> int | None:
    """How many positions a decoder has, None for no limit; refuses a model that writes no text."""
    if not config.head.by_token:
        raise ConfigError(
            f"head: a head over {config.head.kind_name()} writes no text; sublayer classify tells the class of one."
        )
    if config.stack == "encoder":
        raise ConfigError(
            "stack: an encoder goes on from no text, but fills the gaps of one (sublayer fill); to generate, use a "
            "model with stack: decoder or encoder_decoder."
        )
    exact = config.cache_exact()
    if exact.reason:
        raise ConfigError(f"the model cannot generate token by token: {exact.reason.rstrip('.')}; choose other parts.")
    check_vocabulary(config, tokenizer)
    return exact.length


def check_vocabulary(config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer with tokens that the model has not."""
    if config.vocab_size is not None and tokenizer.vocab_size > config.vocab_size:
        raise DataError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, but the model only {config.vocab_size}; "
            "use the one that the model was trained with."
        )


def check_lengths(
    prompts: Sequence[Sequence[int]], limit: int | None, config: ModelConfig, word: str = "prompt"
) -> None:
    """Refuse prompts (or what `word` says that they are) of more tokens than a limit that a part of the model sets."""
    number = next((number for number, ids in enumerate(prompts) if limit is not None and len(ids) > limit), None)
    if number is None:
        return
    which = f"the {word}" if len(prompts) == 1 else f"{word} {number + 1} of {len(prompts)}"
    name = next(
        f"{part.kind_name()} {part.registry.family}"
        for layer in config.all_layers()
        for _, part in layer.parts()
        if limit in (part.cache_exact(config.shape).length, _longest(part, config))
    )
    end = f"{name}s end at" if limit == config.longest() else f"decoding is exact, with its {name}, up to"
    raise DataError(f"{which} has {len(prompts[number])} tokens, but the model's {end} {limit}; shorten it.")


def _longest(part: object, config: ModelConfig) -> int | None:
    return part.longest(config.shape) if isinstance(part, PositionConfig) else None


def batch(rows: list[list[int]], filler: int, device: torch.device) -> tuple[Tensor, Layout]:
    """Token ids as one tensor [B, T], filled up at their end, and its layout."""
    lengths = [len(ids) for ids in rows]
    tokens_BT = torch.tensor([ids + [filler] * (max(lengths) - len(ids)) for ids in rows], device=device)
    return tokens_BT, Layout() if len(set(lengths)) == 1 else Layout.ragged(lengths, device)


def _seen(tokens_BT: Tensor, tokenizer: Tokenizer) -> Tensor:
    """True at the tokens of each row, [B, V].

    Not at the end token, though a row begins with it: a penalty on it would put off the end of every text.  Rows
    may be filled up with it for that reason.
    """
    seen_BV = torch.zeros(len(tokens_BT), tokenizer.vocab_size, dtype=torch.bool, device=tokens_BT.device)
    seen_BV.scatter_(1, tokens_BT, True)
    seen_BV[:, tokenizer.end_id] = False
    return seen_BV
