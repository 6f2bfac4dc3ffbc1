"""Texts to their classes.

Shapes: B texts, T tokens, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import overload

import torch

from sublayer.data import Tokenizer
from sublayer.errors import ConfigError
from sublayer.generation.evaluating import evaluating
from sublayer.generation.prompts import batch, check_lengths, check_vocabulary, finite
from sublayer.model import Transformer
from sublayer.model.head import ClassHeadConfig

ROWS = 32
"""Texts that are read at once; those of like length together."""


@dataclass(frozen=True)
class Classification:
    """What a model takes a text for; as a string, the name of its class.

    Attributes:
        text: as it was given.
        name: of the most probable class; its number, where the model has no names.
        number: of that class.
        probabilities: of all classes, by name, in the order of their numbers.
    """

    text: str
    name: str
    number: int
    probabilities: Mapping[str, float]

    def __str__(self) -> str:
        return self.name


@overload
def classify(model: Transformer, tokenizer: Tokenizer, texts: str) -> Classification: ...
@overload
def classify(model: Transformer, tokenizer: Tokenizer, texts: list[str]) -> list[Classification]: ...
def classify(model: Transformer, tokenizer: Tokenizer, texts: str | list[str]) -> Classification | list[Classification]:
    """The class of a text, or of each of several, on the device that the model is on.

    A text is read whole, also where training cut off longer ones.

    Args:
        model: with a head over classes; put in evaluation mode for the while.
        tokenizer: the model's.
        texts: a text, or a list of them.

    Returns:
        a Classification for a text; a list of them, in order, for a list.

    Raises:
        ConfigError: when the model's head is over tokens, or it reads two texts.
        DataError: when a text is longer than the model's positions or is no Unicode text, or the tokenizer is not the
            model's.
        RunError: when the model's logits are not finite numbers.
    """
    head = model.config.head
    if not isinstance(head, ClassHeadConfig):
        raise ConfigError(
            f"head: a head over {head.kind_name()} tells no classes; train a model with head: classes and "
            "data.objective: classify."
        )
    if model.encoder is not None:
        raise ConfigError("stack: an encoder_decoder reads two texts, and to classify there is one; use an encoder.")
    check_vocabulary(model.config, tokenizer)
    given = [texts] if isinstance(texts, str) else texts
    encoded = tokenizer.encode_batch(given)
    check_lengths(encoded, model.config.longest(), model.config, "text")
    names = head.classes or tuple(map(str, range(head.number or 0)))
    found: dict[int, Classification] = {}
    by_length = sorted(range(len(given)), key=lambda number: len(encoded[number]))
    with evaluating(model), torch.inference_mode():
        for first in range(0, len(given), ROWS):
            rows = by_length[first : first + ROWS]
            tokens_BT, layout = batch([encoded[row] for row in rows], tokenizer.end_id, model.device)
            logits_BC = model(tokens_BT, layout).logits
            assert logits_BC is not None
            for row, probabilities in zip(rows, finite(logits_BC).softmax(-1).tolist(), strict=True):
                number = max(range(len(names)), key=probabilities.__getitem__)
                by_name = dict(zip(names, probabilities, strict=True))
                found[row] = Classification(given[row], names[number], number, by_name)
    told = [found[row] for row in range(len(given))]
    return told[0] if isinstance(texts, str) else told
