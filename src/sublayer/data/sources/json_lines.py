"""What all sources of JSON lines share: rows read one by one, and what is wrong with one said by its line."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import orjson

from sublayer.config import Count
from sublayer.data.document import Document
from sublayer.data.skipped import Skipped
from sublayer.data.sources.damage import Damage, pass_by
from sublayer.data.sources.files import PACKED, FilesConfig, lines

SUFFIXES = (".jsonl", ".ndjson")


class JsonLinesConfig(FilesConfig):
    """A source of files with one JSON object a line, plain or packed (.gz, .zst)."""

    taken: ClassVar[tuple[str, str]] = (".jsonl and .ndjson files, packed or not,", "hidden and other files")

    longest_line: Count = 64 << 20
    """Bytes; a longer line counts as damaged, and is never in memory as a whole."""

    def documents(self, skipped: Skipped) -> Iterator[Document]:
        domain = self.domain_name()
        empty = True
        for name, path in self._files():

            def damaged(number: int, damage: Damage, path: Path = path) -> None:
                pass_by(self.damaged, skipped, f"{path} line {number}", damage)

            for number, line in lines(path, self.longest_line, damaged):
                try:
                    document = self._document(f"{name}:{number}", domain, parsed(line))
                except Damage as damage:
                    damaged(number, damage)
                    continue
                if document is not None:
                    empty = False
                    yield document
        if empty:
            raise self._nothing(skipped)

    @abstractmethod
    def _document(self, key: str, domain: str, row: Mapping[str, Any]) -> Document | None:
        """The document that a row holds; None where it holds no text.

        Raises:
            Damage: when it is none.
        """

    def _takes(self, path: Path) -> bool:
        return (Path(path.stem).suffix if path.suffix in PACKED else path.suffix) in SUFFIXES


def parsed(line: bytes) -> Mapping[str, Any]:
    """The JSON object of a line.

    Raises:
        Damage: when it is none.
    """
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        row = _parsed_slowly(line)
    if not isinstance(row, dict):
        raise Damage("not a JSON object", f"it is a {_kind(row)}, and each line must be an object")
    return row


def _parsed_slowly(line: bytes) -> Any:
    """Python's reader takes `NaN` and half characters, which others write, and says what is wrong in words."""
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise Damage("not UTF-8 text", f"byte {error.start} of the line cannot be read: {error.reason}") from None
    except json.JSONDecodeError as error:
        if line[:1] in (b"[", b"{") and error.pos >= len(error.doc.rstrip()):
            raise Damage("not JSON", "it ends too early; each object must be on a line of its own") from None
        raise Damage("not JSON", f"{error.msg.lower().removesuffix(' at')} at column {error.colno}") from None
    except (RecursionError, ValueError) as error:  # nested too deep, or a number of thousands of digits
        raise Damage("not JSON", str(error).split(";")[0].rstrip(".")) from None


def text_of(row: Mapping[str, Any], field: str) -> str:
    """A text in a row.

    Args:
        row: a JSON object.
        field: its key, or keys with dots between them for objects in objects.

    Raises:
        Damage: when there is no such field, or no text in it.
    """
    return checked_text(value_of(row, field), f"a field '{field}' that holds no text")


def value_of(row: Mapping[str, Any], field: str) -> Any:
    """What a field of a row holds; as for `text_of`.

    Raises:
        Damage: when there is no such field.
    """
    value: Any = row
    for key in [field] if field in row else field.split("."):
        if not isinstance(value, Mapping) or key not in value:
            keys = ", ".join(map(str, row)) if len(row) <= 12 else f"{', '.join(map(str, list(row)[:12]))}, …"
            raise Damage(f"no field '{field}'", f"it has: {keys}" if keys else "it is empty")
        value = value[key]
    return value


def checked_text(value: Any, otherwise: str) -> str:
    """`value`, if it is text that can be written down.

    Raises:
        Damage: with the reason `otherwise` when it is no text, or when it holds half a character.
    """
    if not isinstance(value, str):
        raise Damage(otherwise, f"it is a {_kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Damage("half a character (a lone surrogate), which is no Unicode text") from None
    return value


def digest(*texts: str) -> str:
    """A key for the held-out split: documents of the same text have the same one, and so never are on two sides."""
    found = hashlib.blake2b(digest_size=16)
    for text in texts:
        found.update(text.encode())
        found.update(b"\0")
    return found.hexdigest()


def _kind(value: Any) -> str:
    kinds = {dict: "mapping", list: "list", str: "text", bool: "true or false", bytes: "string of bytes"}
    return "null" if value is None else kinds.get(type(value), "number")
