"""A source of pairs, such as sentences and their translations: what is given, and what is to be written."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from sublayer.data.document import END_MARK, Document, Segment
from sublayer.data.sources.base import SOURCES
from sublayer.data.sources.json_lines import JsonLinesConfig, digest, text_of


@SOURCES.register
class PairsConfig(JsonLinesConfig):
    """JSON lines with a text given and a text wanted; the loss is on the wanted one and the end token after it.

    Lines without text wanted are passed by.  The text given decides the held-out side.
    """

    in_segments: ClassVar[bool] = True

    kind: Literal["pairs"] = "pairs"
    source_field: str = Field(default="source", min_length=1)
    """The key that holds the text given."""
    target_field: str = Field(default="target", min_length=1)
    """The key that holds the text wanted."""
    separator: str = "\n"
    """What stands between the two where one model reads both; a prompt for it is a source and this."""

    @model_validator(mode="after")
    def _two_fields(self) -> Self:
        if self.source_field == self.target_field:
            raise ValueError(f"target_field is source_field ('{self.source_field}'); name the field that is wanted")
        return self

    def apart(self) -> "PairsConfig":
        if self.separator not in (type(self).model_fields["separator"].default, ""):
            raise ValueError("a separator of pairs has no effect where an encoder reads the source; leave it out")
        return self.model_copy(update={"separator": ""})

    def _document(self, key: str, domain: str, row: Mapping[str, Any]) -> Document | None:
        source, target = text_of(row, self.source_field), text_of(row, self.target_field)
        if not target:
            return None
        given = source + self.separator
        head = [Segment(given, scored=False)] if given else []
        segments = (*head, Segment(target), Segment(END_MARK, special=True))
        return Document(key, domain, segments=segments, held_out_key=digest(source))
