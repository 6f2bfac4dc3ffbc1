"""The text of a source written down once, so that splitting, learning and tokenizing see the same text.

A source is read a single time, whatever its size, and only pieces of it are in memory at once.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sublayer.data.document import Document
from sublayer.errors import DataError

PIECE = 1 << 18
"""Bytes of text handed to the tokenizer at once."""

_WORD_ENDS = re.compile(rb"[0-9A-Za-z](?=[ \n])")
_LINE_ENDS = re.compile(rb"\S(?=\n)")


@dataclass(frozen=True, slots=True)
class Entry:
    """One document in a spool: its names, and where its UTF-8 bytes lie."""

    key: str
    domain: str
    held_out_key: str
    begin: int
    end: int


class Spool:
    """Documents as UTF-8 bytes, one after another in one file.

    Args:
        path: the file.
        entries: what lies where in it.
    """

    def __init__(self, path: Path, entries: list[Entry]) -> None:
        self.path = path
        self.entries = entries

    @classmethod
    def write(cls, path: Path, documents: Iterable[Document], seen: Callable[[int], None]) -> "Spool":
        """Write documents down; empty ones are left out.

        Args:
            path: the file to write.
            documents: in order; pieces that continue a document follow it directly.
            seen: told the number of documents so far.

        Raises:
            DataError: when a document's text holds half a character (a lone surrogate).
        """
        entries: list[Entry] = []
        position = 0
        with path.open("wb") as file:
            for document in documents:
                try:
                    content = document.text.encode()
                except UnicodeEncodeError:
                    raise DataError(
                        f"the document '{document.key}' holds half a character (a lone surrogate), "
                        "which is no Unicode text; remove it from the source."
                    ) from None
                if not content:
                    continue
                file.write(content)
                begin, position = position, position + len(content)
                if document.continues and entries and entries[-1].key == document.key:
                    begin = entries.pop().begin
                held_out_key = document.held_out_key or document.key
                entries.append(Entry(document.key, document.domain, held_out_key, begin, position))
                seen(len(entries))
        return cls(path, entries)

    def read(self, begin: int, end: int) -> Iterator[str]:
        """The text from one byte to another, in pieces.

        Pieces are cut between a word and the space or line end after it, where the usual pre-tokenizers cut as well,
        so the tokens are those of the whole text.
        """
        with self.path.open("rb") as file:
            file.seek(begin)
            while begin < end:
                content = file.read(min(PIECE, end - begin))
                if begin + len(content) < end:
                    content = content[: _cut(content)]
                    file.seek(begin + len(content))
                begin += len(content)
                yield content.decode()

    def line_near(self, wanted: int, begin: int, end: int) -> int:
        """The byte strictly between `begin` and `end` to cut a document at, near byte `wanted`.

        The first start of a line from `wanted` on; where no line starts there, the last one before it; where there is
        none within 256 KB either way, the first byte of a character.  `end` where even that is not to be had.
        """
        first, last = max(begin, wanted - PIECE), min(end, wanted + PIECE)
        with self.path.open("rb") as file:
            file.seek(first)
            content = file.read(last - first)
        at = wanted - first
        after = content.find(b"\n", max(at - 1, 0), len(content) - 1)
        if after >= 0:
            return first + after + 1
        before = content.rfind(b"\n", 0, at)
        if before >= 0:
            return first + before + 1
        while at < len(content) and _is_inside(content[at]):
            at += 1
        return first + at


def _cut(content: bytes) -> int:
    """Where to end a piece: after a word, as late as possible."""
    for place in (_WORD_ENDS, _LINE_ENDS):
        ends = [match.end() for match in place.finditer(content, max(0, len(content) - 4096))]
        if ends:
            return ends[-1]
    # Text without such a place is cut at a character, which can cost a token more than the whole text has.
    at = len(content) - 1
    while at > 1 and _is_inside(content[at]):
        at -= 1
    return at


def _is_inside(byte: int) -> bool:
    """Whether a byte continues a UTF-8 character."""
    return byte & 0xC0 == 0x80
