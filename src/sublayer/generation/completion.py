"""Prompts to completions."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

from sublayer.data import Tokenizer
from sublayer.generation.beams import search
from sublayer.generation.config import GenerationConfig
from sublayer.generation.decoding import decode
from sublayer.generation.evaluating import evaluating
from sublayer.generation.sampling import row_seeds
from sublayer.generation.texts import listed, texts_of
from sublayer.generation.written import Reason
from sublayer.model import Transformer


@dataclass(frozen=True)
class Completion:
    """What a model made of a prompt; as a string, the prompt and what follows it, or a text that stands for itself.

    Attributes:
        prompt: as it was given; of a conversation, what the chat template made of it, special tokens left out.
        text: what follows it, or what an encoder_decoder made of it, up to the end or the stop string.
        token_ids: every token drawn: with reason "end" the last is the end token, with "stop" the last hold the stop
            string.
        reason: why the text ends: "end" (the model ended it), "stop" (a stop string came), "length" (max_tokens, or the
            last position the model has).
        seed: the prompt alone with this seed gives this text again; None with beams, which draw nothing.
        log_probability: of all tokens drawn, in nats, as the model has it: of the tokenizer's tokens, and without
            temperature, cuts and penalty.  Not looked at when completions are compared, as it is rounded.
        others: with beams and `n_best`, the next best.
        follows: the text goes on from the prompt; that of an encoder_decoder does not, and is the string by itself.
    """

    prompt: str
    text: str
    token_ids: tuple[int, ...]
    reason: Reason
    seed: int | None
    log_probability: float = field(default=0.0, compare=False)
    others: tuple["Completion", ...] = ()
    follows: bool = True

    def __str__(self) -> str:
        return self.prompt + self.text if self.follows else self.text


@overload
def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: str,
    config: GenerationConfig | None = None,
    *,
    on_text: Callable[[int, str], None] | None = None,
    **options: Any,
) -> Completion: ...
@overload
def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: Sequence[str],
    config: GenerationConfig | None = None,
    *,
    on_text: Callable[[int, str], None] | None = None,
    **options: Any,
) -> list[Completion]: ...
@overload
def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: Sequence[Mapping[str, Any]],
    config: GenerationConfig | None = None,
    *,
    on_text: Callable[[int, str], None] | None = None,
    **options: Any,
) -> Completion: ...
def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: str | Sequence[str] | Sequence[Mapping[str, Any]],
    config: GenerationConfig | None = None,
    *,
    on_text: Callable[[int, str], None] | None = None,
    **options: Any,
) -> Completion | list[Completion]:
    """Go on from a prompt, or from several at once, or answer a conversation, on the device that the model is on.

    An encoder_decoder reads the prompt as its source and writes a text of its own.
    A prompt gives the same text in any batch and alone: row 0 draws with the given seed, every further row with one of
    its own that follows from it, and each completion names the seed that repeats it alone.

    Args:
        model: a decoder or an encoder_decoder; put in evaluation mode for the while.
        tokenizer: the model's.
        prompt: a text, or a sequence of them; an empty one asks a decoder for a document from its beginning.  Or a
            conversation: messages, mappings with `role` ("system", "user" or "assistant") and `content`, the last of
            which is answered.
        config: how text is drawn; left out, the defaults.
        on_text: told (row, text) whenever a row has more text: whole characters, nothing of a stop string.  What it is
            told of a row joins to the completion's text.  With beams it is told all of it at the end.
        options: fields of GenerationConfig, over those of `config`.

    Returns:
        a Completion for a text or a conversation; a list of them, in order, for a sequence of texts.

    Raises:
        ConfigError: when an option is refused, or the model is an encoder, tells classes or cannot be decoded token by
            token.
        DataError: when a prompt is no text, no Unicode text or longer than the model's positions, the tokenizer is not
            the model's, or it carries no chat template to read a conversation with.
        RunError: when the model's logits are not finite numbers.
    """
    if config is None or options:
        config = GenerationConfig(**({} if config is None else config.model_dump(exclude_unset=True)) | options)
    single = isinstance(prompt, str)
    wanted = "a text, a list of texts, or a conversation as a list of messages"
    given = listed(prompt, "to go on from", wanted)
    if given and all(isinstance(message, Mapping) for message in given):
        single = True
        encoded = [tokenizer.encode_chat(given)]
        prompts = [tokenizer.decode(encoded[0])]
    else:
        prompts = texts_of(given, "to go on from", wanted)
        encoded = tokenizer.encode_batch(prompts, special=config.special_tokens)
    work = _searched if config.beams > 1 else _drawn
    with evaluating(model):
        completions = work(model, tokenizer, prompts, encoded, config, on_text)
    return completions[0] if single else completions


def _drawn(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    encoded: Sequence[Sequence[int]],
    config: GenerationConfig,
    on_text: Callable[[int, str], None] | None,
) -> list[Completion]:
    """Completions drawn token by token."""
    seeds = row_seeds(secrets.randbits(32) if config.seed is None else config.seed, len(prompts))
    texts: list[list[str]] = [[] for _ in prompts]
    tokens: list[list[int]] = [[] for _ in prompts]
    log_probability = [0.0 for _ in prompts]
    reasons: dict[int, Reason] = {}
    for event in decode(model, tokenizer, encoded, config, seeds):
        tokens[event.row].append(event.token)
        texts[event.row].append(event.text)
        log_probability[event.row] += event.log_probability
        if event.reason is not None:
            reasons[event.row] = event.reason
        if event.text and on_text is not None:
            on_text(event.row, event.text)
    return [
        Completion(
            prompt,
            "".join(texts[row]),
            tuple(tokens[row]),
            reasons[row],
            seeds[row],
            log_probability[row],
            follows=model.encoder is None,
        )
        for row, prompt in enumerate(prompts)
    ]


def _searched(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    encoded: Sequence[Sequence[int]],
    config: GenerationConfig,
    on_text: Callable[[int, str], None] | None,
) -> list[Completion]:
    """The best completions that beams find."""
    completions: dict[int, Completion] = {}
    for row, hypotheses in search(model, tokenizer, encoded, config):
        best, *others = [
            Completion(
                prompts[row], one.text, one.tokens, one.reason, None, one.log_probability, follows=model.encoder is None
            )
            for one in hypotheses[: config.n_best]
            if one.reason is not None
        ]
        completions[row] = replace(best, others=tuple(others))
        if best.text and on_text is not None:
            on_text(row, best.text)
    return [completions[row] for row in range(len(prompts))]
