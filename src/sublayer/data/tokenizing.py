"""One chunk of text to tokens, marks and what is known of each document.

Shape suffixes: N tokens, D documents.
"""

import hashlib
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sublayer.data.chunks import Chunk
from sublayer.data.document import Segment
from sublayer.data.split import SIDES, Side, Split
from sublayer.data.spool import Spool
from sublayer.data.tokenizer import Tokenizer
from sublayer.files import written_aside

BATCH = 1 << 20
"""Bytes tokenized at once: the library needs a hundred times as much memory meanwhile."""

SCORED, BEGINS = 1, 2
"""Bits of a token's mark: it is a target of the loss; a document begins with it."""

COLUMNS = {
    name: np.dtype(kind)
    for name, kind in {
        "marks": "u1",
        "lengths": "<u4",
        "scored": "<u4",
        "sizes": "<u8",
        "hashes": "<u8",
        "labels": "<u4",
    }.items()
}
"""The files beside a stream's tokens: of each token its mark; of each document its tokens, those of them that are
targets, its bytes, a hash of its text, and the number of its label."""

Columns = Mapping[str, NDArray[Any]]
"""Of a stream, by the suffix of its file: see `sublayer.data.shards`."""

Streams = Mapping[tuple[int, Side], Columns]
"""By the number of the domain in its spool, and the side."""


class Opening(NamedTuple):
    """What is known of a document where it begins: its name, the token in front (none when it began in the chunk
    before), its bytes and their hash, and its label's place in the spool's list."""

    key: bytes
    head: list[int]
    size: int
    hash: int
    label: int


class Tokens:
    """What a chunk gives to one stream.

    Args:
        marked: the stream has marks.
        labelled: its documents have labels.
    """

    def __init__(self, marked: bool, labelled: bool) -> None:
        self._marked, self._labelled = marked, labelled
        self._tokens, self._marks = array("I"), bytearray()
        self._lengths, self._scored = array("I"), array("I")
        self._sizes, self._hashes = array("Q"), array("Q")
        self._labels = array("I")
        self._keys: list[bytes] = []
        self._continues = False

    def begin(self, opening: Opening) -> None:
        """A document, or more of the one that the chunk before ended in."""
        self._continues |= not opening.head
        self._tokens.fromlist(opening.head)
        self._lengths.append(len(opening.head))
        if self._marked:
            self._marks += bytes([BEGINS]) * len(opening.head)
            self._scored.append(0)
        self._sizes.append(opening.size)
        self._hashes.append(opening.hash)
        self._labels.append(opening.label)
        self._keys.append(opening.key)

    def add(self, ids: Sequence[int], scored: bool) -> None:
        """More tokens of the document begun last."""
        self._tokens.extend(ids)
        self._lengths[-1] += len(ids)
        if self._marked:
            self._marks += bytes([SCORED * scored]) * len(ids)
            self._scored[-1] += len(ids) * scored

    def columns(self, vocab_size: int) -> dict[str, NDArray[Any]]:
        """As they go to disk."""
        found: dict[str, NDArray[Any]] = {
            "tokens": np.frombuffer(self._tokens, dtype=np.uintc).astype(token_dtype(vocab_size)),
            "lengths": np.frombuffer(self._lengths, dtype=np.uintc).astype(COLUMNS["lengths"]),
            "sizes": np.frombuffer(self._sizes, dtype=np.ulonglong).astype(COLUMNS["sizes"]),
            "hashes": np.frombuffer(self._hashes, dtype=np.ulonglong).astype(COLUMNS["hashes"]),
            "keys": np.frombuffer(b"".join(key + b"\n" for key in self._keys), dtype=np.uint8),
            "continues": np.array([self._continues]),
        }
        if self._labelled:
            found["labels"] = np.frombuffer(self._labels, dtype=np.uintc).astype(COLUMNS["labels"])
        if self._marked:
            found["marks"] = np.frombuffer(bytes(self._marks), dtype=COLUMNS["marks"])
            found["scored"] = np.frombuffer(self._scored, dtype=np.uintc).astype(COLUMNS["scored"])
        return found


def token_dtype(vocab_size: int) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
    """How tokens lie on disk."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def hash_of(content: bytes) -> int:
    """64 bits of a text."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def hash_on(before: int, after: int) -> int:
    """The hash of a text in stretches, from that of those before and that of the next."""
    return hash_of(before.to_bytes(8, "little") + after.to_bytes(8, "little"))


def tokenize(
    spool: Spool, split: Split, chunk: Chunk, tokenizer: Tokenizer, told: Callable[[int], None] = lambda size: None
) -> Streams:
    """The tokens of a chunk.

    Args:
        spool: where the chunk lies.
        split: decides the side of each document.
        chunk: what to tokenize.
        tokenizer: of the stream.
        told: given the bytes done, now and then.
    """
    streams: dict[tuple[int, Side], Tokens] = {}
    batch: list[tuple[Tokens, Opening | None, Segment]] = []
    waiting = 0
    for domain, side, opening, segment in _segments(spool, split, chunk, tokenizer.end_id):
        stream = streams.get((domain, side))
        if stream is None:
            stream = streams[domain, side] = Tokens(spool.has_segments, any(spool.labels))
        batch.append((stream, opening, segment))
        waiting += len(segment.text)
        if waiting >= BATCH:
            _encode(batch, tokenizer)
            told(waiting)
            batch, waiting = [], 0
    _encode(batch, tokenizer)
    told(waiting)
    return {name: stream.columns(tokenizer.vocab_size) for name, stream in streams.items()}


def _segments(
    spool: Spool, split: Split, chunk: Chunk, end_id: int
) -> Iterator[tuple[int, Side, Opening | None, Segment]]:
    """What is to be tokenized, in order, each with its domain and side, and where a document begins its opening."""
    places, keys = spool.places(chunk.first, chunk.last), spool.keys(chunk.first, chunk.last)
    entries_D = spool.entries(chunk.first, chunk.last)
    held_out, labels = split.held_out(entries_D["number"]).tolist(), entries_D["label"].tolist()
    head = [end_id] if chunk.begins else []
    for place, key, held, label in zip(places, keys, held_out, labels, strict=True):
        if chunk.side is not None:
            parts = [(chunk.side, chunk.begin, chunk.end)]
        else:
            parts = split.parts(spool, place, held)
        for side, begin, end in parts:
            opening: Opening | None = Opening(key, head, end - begin, hash_of(spool.content(begin, end)), label)
            if place.segment_begin < place.segment_end:
                segments: Iterable[Segment] = spool.segments(place)
            else:
                segments = (Segment(piece.decode()) for piece in spool.read(begin, end))
            for segment in segments:
                yield place.domain, side, opening, segment
                opening = None


def _encode(batch: Sequence[tuple[Tokens, Opening | None, Segment]], tokenizer: Tokenizer) -> None:
    for (stream, opening, segment), ids in zip(batch, _ids(batch, tokenizer), strict=True):
        if opening is not None:
            stream.begin(opening)
        stream.add(ids, segment.scored)


def _ids(batch: Sequence[tuple[Tokens, Opening | None, Segment]], tokenizer: Tokenizer) -> Iterable[Sequence[int]]:
    words = tokenizer.words
    if words is None:
        return tokenizer.encode_segments([segment for _, _, segment in batch])
    return (
        tokenizer.encode_segments([segment])[0] if segment.special else words.encode(segment.text)
        for _, _, segment in batch
    )


def write_chunk(path: Path, streams: Streams) -> None:
    """Write down what `tokenize` gave.

    Raises:
        RunError: when the disk is full or the place cannot be written.
    """
    arrays: dict[str, Any] = {
        f"{domain}-{side}-{name}": column
        for (domain, side), columns in streams.items()
        for name, column in columns.items()
    }
    with written_aside(path) as aside, aside.open("wb") as file:
        np.savez(file, **arrays)


def read_chunk(path: Path) -> Streams | None:
    """What `write_chunk` wrote; None when it is missing or damaged."""
    streams: dict[tuple[int, Side], dict[str, NDArray[Any]]] = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays.files:
                domain, side, column = name.split("-")
                streams.setdefault((int(domain), SIDES[SIDES.index(side)]), {})[column] = arrays[name]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    return streams
