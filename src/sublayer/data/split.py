"""What training never sees: whole documents by a stable hash, or the last part of each where there are few.

Shape suffixes: N documents.
"""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sublayer.data.spool import Place, Spool

Side = Literal["training", "validation"]

SIDES: tuple[Side, Side] = ("training", "validation")

FEWEST = 20
"""With fewer documents than this, whole ones are too coarse to hold out."""

SALT = "20:"
"""Chosen once, by sizes alone, so that the held-out part of the embedded corpus is near 5 % in either domain."""


def number_of(held_out_key: str) -> int:
    """64 bits that depend on nothing but the key (see `Document`): small ones are held out."""
    digest = hashlib.sha256((SALT + held_out_key).encode(errors="replace")).digest()
    return int.from_bytes(digest[:8], "big")


def is_held_out(held_out_key: str, share: float) -> bool:
    """Whether documents with this key are held out where the key decides.

    Args:
        held_out_key: see `Document`.
        share: the share of all keys to hold out.
    """
    return number_of(held_out_key) < _limit(share)


@dataclass(frozen=True, slots=True)
class Split:
    """The rule that puts documents, or parts of them, on a side.

    Attributes:
        side: of every document, when there is but one.
        limit: documents with a smaller number (see `number_of`) are held out.
        cut: the share of each document to hold out at its end; 0 where documents stay whole.
    """

    side: Side | None = None
    limit: int = 0
    cut: float = 0.0

    def held_out(self, numbers_N: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which whole documents are held out, [N]."""
        if self.side is not None:
            return np.full(len(numbers_N), self.side == "validation")
        return numbers_N < np.uint64(self.limit)

    def parts(self, spool: "Spool", place: "Place", held_out: bool) -> list[tuple[Side, int, int]]:
        """The stretches of a document: the side of each, and its first byte and the one after its last.

        Args:
            spool: the documents.
            place: of one of them.
            held_out: what `held_out` says of it.
        """
        if not self.cut:
            return [(SIDES[held_out], place.begin, place.end)]
        wanted = place.end - max(1, round((place.end - place.begin) * self.cut))
        # A document of a single byte has no place to cut.
        at = spool.line_near(wanted, place.begin, place.end) if wanted > place.begin else place.end
        found: list[tuple[Side, int, int]] = [("training", place.begin, at), ("validation", at, place.end)]
        return [part for part in found if part[1] < part[2]]


def whole(side: Side) -> Split:
    """Every document on one side."""
    return Split(side)


def divide(spool: "Spool", share: float) -> Split:
    """Every document on the side that its key decides.

    Where that leaves a domain without one of its sides, or holds out less than half or more than twice the share asked
    for, or there are fewer than 20 keys, the last part of each document is held out instead, from the start of a line.
    Documents in segments are not cut: those with the smallest numbers are held out instead, at least one a domain.

    Args:
        spool: the documents.
        share: the share of the bytes to hold out, above 0 and at most 0.5.
    """
    split = Split(limit=_limit(share))
    keys: set[int] = set()
    sides: set[tuple[int, bool]] = set()
    size_held_out = 0
    for entries_N, sizes_N in spool.blocks():
        held_N = split.held_out(entries_N["number"])
        size_held_out += int(sizes_N[held_N].sum())
        if len(keys) < FEWEST:
            keys.update(np.unique(entries_N["number"])[:FEWEST].tolist())
        sides |= {(code // 2, bool(code % 2)) for code in np.unique(2 * entries_N["domain"] + held_N).tolist()}
    both = len(sides) == 2 * len(spool.domains)
    if len(keys) >= FEWEST and both and share / 2 <= size_held_out / spool.bytes <= 2 * share:
        return split
    return Split(limit=_smallest(spool, share)) if spool.has_segments else Split(cut=share)


def _smallest(spool: "Spool", share: float) -> int:
    """The limit below which `share` of the bytes and a document of each domain lie, where another one is left there."""
    blocks = [(entries_N["number"], entries_N["domain"], sizes_N) for entries_N, sizes_N in spool.blocks()]
    number_N, domain_N, size_N = (np.concatenate(columns) for columns in zip(*blocks, strict=True))
    order_N = np.argsort(number_N, kind="stable")
    reached_N = np.cumsum(size_N[order_N])
    needed = int(number_N[order_N][np.searchsorted(reached_N, share * spool.bytes)])
    for domain in range(len(spool.domains)):
        numbers = np.unique(number_N[domain_N == domain])
        if len(numbers) > 1:
            needed = min(max(needed, int(numbers[0])), int(numbers[-2]))
    return min(needed + 1, (1 << 64) - 1)


def _limit(share: float) -> int:
    """The whole number such that a number is below it exactly when it is below `share` of 2⁶⁴."""
    limit = share * 2.0**64
    return int(limit) + (limit > int(limit))
