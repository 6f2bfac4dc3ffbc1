"""A source of JSON lines, one document in a field of each."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from sublayer.data.document import Document
from sublayer.data.sources.base import SOURCES
from sublayer.data.sources.json_lines import JsonLinesConfig, digest, text_of


@SOURCES.register
class JsonlConfig(JsonLinesConfig):
    """JSON lines, plain or packed (.gz, .zst), one document a line.

    Blank lines and empty texts are passed by.  The text decides the held-out side, so no text is on both.
    """

    kind: Literal["jsonl"] = "jsonl"
    field: str = Field(default="text", min_length=1)
    """The key that holds the text; `meta.body` for a key in an object."""

    def _document(self, key: str, domain: str, row: Mapping[str, Any]) -> Document | None:
        text = text_of(row, self.field)
        return Document(key, domain, text, held_out_key=digest(text)) if text else None
