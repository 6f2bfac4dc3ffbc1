"""A source of texts with a label each, such as reviews and what they think."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from sublayer.data.document import Document, joined, label_text
from sublayer.data.sources.base import SOURCES
from sublayer.data.sources.damage import Damage
from sublayer.data.sources.json_lines import JsonLinesConfig, checked_text, digest, text_of, value_of


@SOURCES.register
class LabelledConfig(JsonLinesConfig):
    """JSON lines with a text, or two, and the class that it is of, to be told by a classifier.

    Empty texts are passed by.  The text decides the held-out side, so no text is on both.
    """

    labelled: ClassVar[bool] = True

    kind: Literal["labelled"] = "labelled"
    text_field: str = Field(default="text", min_length=1)
    """The key that holds the text; `meta.body` for a key in an object."""
    second_field: str | None = Field(default=None, min_length=1)
    """The key that holds a second text, as of a question and an answer; it stands behind the end token."""
    label_field: str = Field(default="label", min_length=1)
    """The key that holds the class: a text, a whole number, or true or false."""

    @model_validator(mode="after")
    def _different_fields(self) -> Self:
        fields = [self.text_field, self.second_field, self.label_field]
        if len(set(fields)) < len(fields):
            raise ValueError(f"text_field, second_field and label_field are {fields}; name another one for each")
        return self

    def _document(self, key: str, domain: str, row: Mapping[str, Any]) -> Document | None:
        text = text_of(row, self.text_field)
        label = _label(value_of(row, self.label_field), self.label_field)
        if self.second_field is None:
            return Document(key, domain, text, held_out_key=digest(text), label=label) if text else None
        second = text_of(row, self.second_field)
        if not text:
            return None
        return Document(key, domain, segments=joined(text, second), held_out_key=digest(text, second), label=label)


def _label(value: Any, field: str) -> str:
    """A label as text.

    Raises:
        Damage: when it is none.
    """
    label = checked_text(label_text(value), f"a field '{field}' that holds no label")
    if not label.strip():
        raise Damage(f"a field '{field}' that is empty")
    return label
