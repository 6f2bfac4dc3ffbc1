"""The text of a source written down once, so that splitting, learning and tokenizing see the same text.

A source is read a single time, whatever its size.  Text and index lie on disk, and only stretches of them are in memory
at once.

Shape suffixes: N documents, S segments.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sublayer.data.document import Document, Segment
from sublayer.data.skipped import Skipped
from sublayer.data.split import number_of
from sublayer.errors import DataError
from sublayer.files import remove, written_aside

PIECE = 1 << 18
"""Bytes of text handed to the tokenizer at once."""

AHEAD = 1 << 20
"""Bytes of text read at once: documents are mostly small, and mostly asked for in order."""

BLOCK = 1 << 16
"""Entries of the index read at once."""

ENTRY = np.dtype(
    [
        ("end", "<u8"),
        ("key_end", "<u8"),
        ("segment_end", "<u8"),
        ("number", "<u8"),
        ("domain", "<u4"),
        ("label", "<u4"),
    ]
)
"""One document: where its text, its key and its segments end, each beginning where those of the one before end; the
number that decides its side; and the places of its domain and its label in the lists of them."""

SEGMENT = np.dtype([("end", "<u8"), ("flags", "u1")])
"""One segment: where its text ends, and what it is."""

SCORED, SPECIAL = 1, 2
"""Flags of a segment."""

_WORD_ENDS = re.compile(rb"[0-9A-Za-z](?=[ \n])")
_LINE_ENDS = re.compile(rb"\S(?=\n)")
_CONTROLS = dict.fromkeys([*range(32), 127, 0x85, 0x2028, 0x2029], " ")


class Place(NamedTuple):
    """One document in a spool, and where its UTF-8 bytes and its segments lie."""

    begin: int
    end: int
    segment_begin: int
    segment_end: int
    domain: int


@dataclass(frozen=True, slots=True)
class _Contents:
    """What a spool's files must hold; written last, so a spool without it is not whole."""

    documents: int
    bytes: int
    segments: int
    domains: list[str]
    labels: list[str]
    skipped: dict[str, int] = field(default_factory=dict)
    first_skipped: dict[str, str] = field(default_factory=dict)


class Spool:
    """Documents as UTF-8 bytes, one after another in one file, and an index beside it.

    Args:
        path: the file of the text, as `write` left it; the others have its name and other suffixes.

    Attributes:
        documents: N.
        bytes: of text.
        domains: the names of the domains.
        labels: the names of the labels; the empty one where documents have none.
        has_segments: whether any document comes in segments.
        skipped: what the source passed by.

    Raises:
        OSError, ValueError, KeyError, TypeError: when it is not there, or not whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        contents = _Contents(**json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
        self.documents, self.bytes, self.domains = contents.documents, contents.bytes, contents.domains
        self.labels = contents.labels
        self.has_segments = contents.segments > 0
        self._window = 0, b""
        self.skipped = Skipped(contents.skipped, contents.first_skipped)
        expected = {
            ".text": self.bytes,
            ".index": self.documents * ENTRY.itemsize,
            ".segments": contents.segments * SEGMENT.itemsize,
        }
        for suffix, size in expected.items():
            if path.with_suffix(suffix).stat().st_size != size:
                raise ValueError(f"{path.with_suffix(suffix)} was cut short")

    @classmethod
    def write(cls, path: Path, documents: Iterable[Document], skipped: Skipped, seen: Callable[[int], None]) -> "Spool":
        """Write documents down; empty ones are left out.

        Args:
            path: the file to write, with suffix `.text`.
            documents: in order; pieces that continue a document follow it directly.
            skipped: what `documents` fills while it is read.
            seen: told the bytes of text so far, document by document.

        Raises:
            DataError: when a document's text holds half a character (a lone surrogate).
        """
        try:
            with _Writer(path) as writer:
                for document in documents:
                    writer.add(document)
                    seen(writer.bytes)
            contents = _Contents(
                writer.documents,
                writer.bytes,
                writer.segments,
                list(writer.domains),
                list(writer.labels),
                dict(skipped.counts),
                dict(skipped.first),
            )
            with written_aside(path.with_suffix(".json")) as aside:
                aside.write_text(json.dumps(asdict(contents)), encoding="utf-8")
        except BaseException:
            remove_spool(path)  # what is there cannot be gone on with, and may be what filled the disk
            raise
        return cls(path)

    def entries(self, first: int, last: int) -> NDArray[Any]:
        """The index from document `first` up to `last`, left out: an array of ENTRY."""
        return np.fromfile(
            self.path.with_suffix(".index"), dtype=ENTRY, count=last - first, offset=first * ENTRY.itemsize
        )

    def blocks(self) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        """The index in blocks, and with each entry the bytes of its document."""
        end = 0
        for first in range(0, self.documents, BLOCK):
            entries_N = self.entries(first, min(first + BLOCK, self.documents))
            ends_N = entries_N["end"].astype(np.int64)
            yield entries_N, np.diff(ends_N, prepend=end)
            end = int(ends_N[-1])

    def places(self, first: int, last: int) -> list[Place]:
        """Where the documents from `first` up to `last`, left out, lie."""
        entries_N = self.entries(first, last)
        end = segment_end = 0
        if first:
            (before,) = self.entries(first - 1, first)
            end, segment_end = int(before["end"]), int(before["segment_end"])
        ends, segment_ends = entries_N["end"].tolist(), entries_N["segment_end"].tolist()
        begins, segment_begins = [end, *ends[:-1]], [segment_end, *segment_ends[:-1]]
        return [
            Place(*place)
            for place in zip(begins, ends, segment_begins, segment_ends, entries_N["domain"].tolist(), strict=True)
        ]

    def keys(self, first: int, last: int) -> list[bytes]:
        """The names of the documents from `first` up to `last`, left out, each in one line of UTF-8."""
        begin = int(self.entries(first - 1, first)["key_end"][0]) if first else 0
        with self.path.with_suffix(".keys").open("rb") as file:
            file.seek(begin)
            return file.read(int(self.entries(last - 1, last)["key_end"][0]) - begin).split(b"\n")[:-1]

    def segments(self, place: Place) -> list[Segment]:
        """The segments of a document that came in some; a long one that is not special in pieces, as `read` cuts it."""
        segments_S = np.fromfile(
            self.path.with_suffix(".segments"),
            dtype=SEGMENT,
            count=place.segment_end - place.segment_begin,
            offset=place.segment_begin * SEGMENT.itemsize,
        )
        found, begin = [], place.begin
        for end, flags in segments_S.tolist():
            scored, special = bool(flags & SCORED), bool(flags & SPECIAL)
            contents = [self.content(begin, end)] if special else self.read(begin, end)
            found += [Segment(content.decode(), scored, special) for content in contents]
            begin = end
        return found

    def content(self, begin: int, end: int) -> bytes:
        """The bytes from one place to another."""
        first, window = self._window
        if not (first <= begin and end <= first + len(window)):
            with self.path.open("rb", buffering=0) as file:
                file.seek(begin)
                first, window = self._window = begin, file.read(max(end - begin, AHEAD))
        return window[begin - first : end - first]

    def read(self, begin: int, end: int) -> Iterator[bytes]:
        """The text from one byte to another, in pieces of whole characters.

        Pieces are cut between a word and the space or line end after it, where the usual pre-tokenizers cut as well,
        so the tokens are those of the whole text.
        """
        while begin < end:
            cut = self.cut_before(begin + PIECE, begin, end)
            yield self.content(begin, cut)
            begin = cut

    def cut_before(self, wanted: int, begin: int, end: int) -> int:
        """Where to cut the text from `begin` to `end`, as late as possible up to byte `wanted`; `end` when that is not
        beyond it."""
        if wanted >= end:
            return end
        first = max(begin, wanted - 8192)
        return first + _cut(self.content(first, wanted))

    def line_near(self, wanted: int, begin: int, end: int) -> int:
        """The byte strictly between `begin` and `end` to cut a document at, near byte `wanted`.

        The first start of a line from `wanted` on; where no line starts there, the last one before it; where there is
        none within 256 KB either way, the first byte of a character.  `end` where even that is not to be had.
        """
        first, last = max(begin, wanted - PIECE), min(end, wanted + PIECE)
        content = self.content(first, last)
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


class _Writer:
    """Writes a spool's files but the last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = ExitStack()
        self._entries: list[tuple[int, int, int, int, int, int]] = []
        self._pending: Document | None = None
        self._key_bytes = 0
        self.documents = self.bytes = self.segments = 0
        self.domains: dict[str, int] = {}
        self.labels: dict[str, int] = {}

    def __enter__(self) -> "_Writer":
        self._text, self._index, self._segments, self._keys = (
            self._files.enter_context(self._path.with_suffix(suffix).open("wb", buffering=1 << 20))
            for suffix in (".text", ".index", ".segments", ".keys")
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._files:
            if kind is None:
                self._close_document()
                self._write_index()
                for file in (self._text, self._index, self._segments, self._keys):
                    _flush(file)

    def add(self, document: Document) -> None:
        """Append a document, or a piece to the last one."""
        before = self._pending
        continues = document.continues and before is not None and before.key == document.key
        try:
            if document.segments:
                size = self._add_segments(document)
            else:
                content = document.text.encode()
                size = len(content)
                if size and not continues:
                    self._close_document()
                self._text.write(content)
        except UnicodeEncodeError:
            raise DataError(
                f"the document '{document.key}' holds half a character (a lone surrogate), "
                "which is no Unicode text; remove it from the source."
            ) from None
        self.bytes += size
        if size and not continues:
            self._pending = document

    def _add_segments(self, document: Document) -> int:
        contents = [(segment.text.encode(), segment) for segment in document.segments if segment.text]
        if contents:
            self._close_document()
        rows, end = [], self.bytes
        for content, segment in contents:
            end += len(content)
            rows.append((end, SCORED * segment.scored | SPECIAL * segment.special))
            self._text.write(content)
        self._segments.write(np.array(rows, dtype=SEGMENT).tobytes())
        self.segments += len(rows)
        return end - self.bytes

    def _close_document(self) -> None:
        """Note the last document, which no piece will follow any more."""
        document, self._pending = self._pending, None
        if document is None:
            return
        domain = self.domains.setdefault(document.domain, len(self.domains))
        label = self.labels.setdefault(document.label, len(self.labels))
        key = document.key.translate(_CONTROLS).encode(errors="replace") + b"\n"
        self._keys.write(key)
        self._key_bytes += len(key)
        number = number_of(document.held_out_key or document.key)
        self._entries.append((self.bytes, self._key_bytes, self.segments, number, domain, label))
        self.documents += 1
        if len(self._entries) == BLOCK:
            self._write_index()

    def _write_index(self) -> None:
        self._index.write(np.array(self._entries, dtype=ENTRY).tobytes())
        self._entries.clear()


def remove_spool(path: Path) -> None:
    """Delete the files of a spool."""
    for suffix in (".json", ".text", ".index", ".segments", ".keys"):
        remove(path.with_suffix(suffix))


def opened_spool(path: Path) -> Spool | None:
    """The spool that an earlier build left whole, if it did."""
    try:
        return Spool(path)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


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
