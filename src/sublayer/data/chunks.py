"""Stretches of the spools that are tokenized one by one: what is lost at most when a build is killed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sublayer.data.split import Side, Split
from sublayer.data.spool import Spool

CHUNK = 8 << 20
"""Bytes of text of a chunk, about."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some consecutive documents of a spool, or a stretch of one that is larger than a chunk.

    Attributes:
        spool: the spool's number.
        first: the number of the first document.
        last: the number after that of the last one.
        begin: the first byte.
        end: the byte after the last one.
        side: of the stretch; None where these are whole documents, which the split puts on theirs.
        begins: whether the document begins on that side with this stretch.
    """

    spool: int
    first: int
    last: int
    begin: int
    end: int
    side: Side | None = None
    begins: bool = True


def chunks(spools: Sequence[Spool], splits: Sequence[Split]) -> list[Chunk]:
    """All of the spools, in order; the same for the same spools."""
    return [
        chunk
        for number, (spool, split) in enumerate(zip(spools, splits, strict=True))
        for first, last, begin, end in _runs(spool)
        for chunk in _cut(number, spool, split, first, last, begin, end)
    ]


def _runs(spool: Spool) -> Iterator[tuple[int, int, int, int]]:
    """Consecutive documents of at most CHUNK bytes together, or a single larger one: numbers and bytes.

    None reaches from one block of the index into the next, so that very small documents are not too many together.
    """
    begin = done = 0
    for entries_N, sizes_N in spool.blocks():
        ends_N = entries_N["end"].astype(np.int64)
        first = 0
        while first < len(sizes_N):
            last = max(first + 1, int(np.searchsorted(ends_N, begin + CHUNK, side="right")))
            end = int(ends_N[last - 1])
            yield done + first, done + last, begin, end
            first, begin = last, end
        done += len(sizes_N)


def _cut(number: int, spool: Spool, split: Split, first: int, last: int, begin: int, end: int) -> Iterator[Chunk]:
    place = spool.places(first, last)[0] if last - first == 1 else None
    if end - begin <= CHUNK or place is None or place.segment_begin < place.segment_end:
        yield Chunk(number, first, last, begin, end)
        return
    held_out = bool(split.held_out(spool.entries(first, last)["number"])[0])
    for side, part_begin, part_end in split.parts(spool, place, held_out):
        at = part_begin
        while at < part_end:
            cut = spool.cut_before(at + CHUNK, at, part_end)
            yield Chunk(number, first, last, at, cut, side, begins=at == part_begin)
            at = cut
