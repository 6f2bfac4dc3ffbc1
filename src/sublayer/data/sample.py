"""The text that a tokenizer learns from: all of the training side, or of a large one a draw that is always the same.

Shape suffixes: U units.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from sublayer.data.document import END_MARK
from sublayer.data.permutation import mixed
from sublayer.data.split import Split
from sublayer.data.spool import Place, Spool

LEARN_FROM = 200_000_000
"""Bytes of text a tokenizer learns from at most; the work and the memory for more would be better spent on training."""

SEED = 0
"""Of the draw; part of what decides the tokens."""

UNIT = 1 << 18
"""Bytes drawn together: the documents that begin in a stretch of so many, and of a longer document the pieces."""

AT_ONCE = 4096
"""Documents looked up at once."""


def learnt_from(
    spools: Sequence[Spool], splits: Sequence[Split], told: Callable[[int], None] = lambda done: None
) -> Iterator[str]:
    """The texts to learn from, in order, at most LEARN_FROM bytes.

    Args:
        spools: all text.
        splits: of each spool; only the training side is read.
        told: given the bytes passed so far.
    """
    drawn = _drawn(spools, splits)
    passed, left = 0, LEARN_FROM
    for spool, split, drawn_U in zip(spools, splits, drawn, strict=True):
        for first in range(0, spool.documents, AT_ONCE):
            last = min(first + AT_ONCE, spool.documents)
            places = spool.places(first, last)
            held_out = split.held_out(spool.entries(first, last)["number"]).tolist()
            for place, held in zip(places, held_out, strict=True):
                if place.end - place.begin <= UNIT and not drawn_U[place.begin // UNIT]:
                    continue
                for text in _texts(spool, split, place, held, drawn_U):
                    left -= len(text.encode())
                    if left >= 0:
                        yield text
            told(passed + places[-1].end)
        passed += spool.bytes


def _drawn(spools: Sequence[Spool], splits: Sequence[Split]) -> list[NDArray[np.bool_]]:
    """Which units of each spool to take, [U] each."""
    sizes = [_unit_sizes(spool, split) for spool, split in zip(spools, splits, strict=True)]
    if sum(int(size_U.sum()) for size_U in sizes) <= LEARN_FROM:
        return [np.ones(len(size_U), dtype=np.bool_) for size_U in sizes]
    size_U = np.concatenate(sizes)
    order_U = np.argsort(mixed(SEED, np.arange(len(size_U), dtype=np.uint64)), kind="stable")
    drawn_U = np.zeros(len(size_U), dtype=np.bool_)
    drawn_U[order_U] = np.cumsum(size_U[order_U]) <= LEARN_FROM
    return np.split(drawn_U, np.cumsum([len(size_U) for size_U in sizes])[:-1])


def _unit_sizes(spool: Spool, split: Split) -> NDArray[np.int64]:
    """The bytes of the training side that each unit holds, [U]."""
    size_U = np.zeros(-(-spool.bytes // UNIT), dtype=np.int64)
    for entries_N, sizes_N in spool.blocks():
        begins_N = entries_N["end"].astype(np.int64) - sizes_N
        sizes_N = np.where(split.held_out(entries_N["number"]), 0, np.ceil(sizes_N * (1 - split.cut)).astype(np.int64))
        large_N = sizes_N > UNIT
        size_U += np.bincount(begins_N[~large_N] // UNIT, sizes_N[~large_N], len(size_U)).astype(np.int64)
        for begin, size in zip(begins_N[large_N].tolist(), sizes_N[large_N].tolist(), strict=True):
            size_U[begin // UNIT : -(-(begin + size) // UNIT)] += UNIT
    return size_U


def _texts(spool: Spool, split: Split, place: Place, held_out: bool, drawn_U: NDArray[np.bool_]) -> Iterator[str]:
    """The drawn texts of a document's training side."""
    for side, begin, end in split.parts(spool, place, held_out):
        if side == "validation":
            continue
        if place.segment_begin < place.segment_end:
            yield from (segment.text for segment in spool.segments(place) if segment.text != END_MARK)
        else:
            yield from _pieces(spool, begin, end, drawn_U)


def _pieces(spool: Spool, begin: int, end: int, drawn_U: NDArray[np.bool_]) -> Iterator[str]:
    at = begin
    while at < end:
        cut = spool.cut_before(at + UNIT, at, end)
        if drawn_U[at // UNIT] or end - begin <= UNIT:
            yield spool.content(at, cut).decode()
        at = cut
