"""Texts to their classes.

Shapes: B texts, T tokens, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import torch

from sublayer.data import Tokenizer
from sublayer.data.document import joined
from sublayer.data.packing import segments
from sublayer.errors import ConfigError, DataError
from sublayer.generation.evaluating import evaluating
from sublayer.generation.prompts import batch, check_lengths, check_vocabulary, finite
from sublayer.generation.texts import listed
from sublayer.model import Transformer
from sublayer.model.head import ClassHeadConfig

ROWS = 32
"""Texts that are read at once; those of like length together."""

Items = list[str] | list[tuple[str, str]] | list[str | tuple[str, str]]
"""Texts, and pairs of a text and a second one."""


@dataclass(frozen=True)
class Classification:
    """What a model takes a text for; as a string, the name of its class.

    Attributes:
        text: as it was given; of a pair, the first one.
        name: of the most probable class; its number, where the model has no names.
        number: of that class.
        probabilities: of all classes, by name, in the order of their numbers.
        second: of a pair, the second text.
    """

    text: str
    name: str
    number: int
    probabilities: Mapping[str, float]
    second: str | None = None

    def __str__(self) -> str:
        return self.name


@overload
def classify(model: Transformer, tokenizer: Tokenizer, texts: str) -> Classification: ...
@overload
def classify(model: Transformer, tokenizer: Tokenizer, texts: Items) -> list[Classification]: ...
def classify(model: Transformer, tokenizer: Tokenizer, texts: str | Items) -> Classification | list[Classification]:
    """The class of a text, or of each of several, on the device that the model is on.

    A text is read whole, also where training cut off longer ones.  Two texts that are of one class together, as a
    question and an answer, are a pair, and joined as those of a source with a `second_field` are.

    Args:
        model: with a head over classes; put in evaluation mode for the while.
        tokenizer: the model's.
        texts: a text, or a list of texts and pairs (text, second text); a pair alone is a list of one.

    Returns:
        a Classification for a text; a list of them, in order, for a list.

    Raises:
        ConfigError: when the model's head is over tokens, or it reads two texts.
        DataError: when an item is neither a text nor a pair of texts, a text is longer than the model's positions or is
            no Unicode text, or the tokenizer is not the model's.
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
    given = _given(texts)
    encoded = _encoded(tokenizer, given)
    check_lengths(encoded, model.config.longest(), model.config, "text")
    names = head.classes or tuple(map(str, range(head.number or 0)))
    found: dict[int, Classification] = {}
    by_length = sorted(range(len(given)), key=lambda number: len(encoded[number]))
    with evaluating(model), torch.inference_mode():
        for first in range(0, len(given), ROWS):
            rows = by_length[first : first + ROWS]
            tokens_BT, layout = batch([encoded[row] for row in rows], tokenizer.end_id, model.device)
            layout = replace(layout, segment_BT=segments(tokens_BT, layout.valid_BT, tokenizer.end_id))
            logits_BC = model(tokens_BT, layout).logits
            assert logits_BC is not None
            for row, probabilities in zip(rows, finite(logits_BC).softmax(-1).tolist(), strict=True):
                number = max(range(len(names)), key=probabilities.__getitem__)
                by_name = dict(zip(names, probabilities, strict=True))
                text, second = given[row]
                found[row] = Classification(text, names[number], number, by_name, second)
    told = [found[row] for row in range(len(given))]
    return told[0] if isinstance(texts, str) else told


def _given(texts: Any) -> list[tuple[str, str | None]]:
    """Each text, with the second one where there are two.

    Raises:
        DataError: when there are none.
    """
    items = listed(texts, "to classify", "a text, or a list of texts and pairs of texts")
    given: list[tuple[str, str | None]] = []
    for number, item in enumerate(items):
        if isinstance(item, str):
            given.append((item, None))
        elif isinstance(item, tuple | list) and len(item) == 2 and all(isinstance(text, str) for text in item):
            given.append((item[0], item[1]))
        else:
            raise DataError(
                f"item {number + 1} of {len(items)} to classify is {item!r:.60}; give a text, or a pair (text, second "
                "text)."
            )
    return given


def _encoded(tokenizer: Tokenizer, given: Sequence[tuple[str, str | None]]) -> list[list[int]]:
    """The tokens of each row, as training reads them."""
    rows = iter(tokenizer.encode_batch([text for text, second in given if second is None]))
    return [next(rows) if second is None else tokenizer.encode_document(joined(text, second)) for text, second in given]
