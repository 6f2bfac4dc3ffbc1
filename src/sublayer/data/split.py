"""What training never sees: whole documents by a stable hash, or the last part of each where there are few."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sublayer.data.spool import Entry, Spool

Side = Literal["training", "validation"]

FEWEST = 20
"""With fewer documents than this, whole ones are too coarse to hold out."""

SALT = "20:"
"""Chosen once, by sizes alone, so that the held-out part of the embedded corpus is near 5 % in either domain."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a spool on one side: a document, or the first or last part of one."""

    domain: str
    side: Side
    begin: int
    end: int


def is_held_out(held_out_key: str, share: float) -> bool:
    """Whether documents with this key are held out; the answer depends on nothing but the arguments.

    Args:
        held_out_key: see `Document`.
        share: the share of all keys to hold out.
    """
    digest = hashlib.sha256((SALT + held_out_key).encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2.0**64


def whole(spool: Spool, side: Side) -> list[Part]:
    """Every document on one side."""
    return [Part(entry.domain, side, entry.begin, entry.end) for entry in spool.entries]


def divide(spool: Spool, share: float) -> list[Part]:
    """Every document on the side that its key decides.

    Where that leaves a domain without one of its sides, or holds out less than half or more than twice the share asked
    for, or there are fewer than 20 keys, the last part of each document is held out instead, from the start of a line.

    Args:
        spool: the documents.
        share: the share of the bytes to hold out, above 0 and at most 0.5.
    """
    entries = spool.entries
    held_out = [is_held_out(entry.held_out_key, share) for entry in entries]
    sides = {(entry.domain, held) for entry, held in zip(entries, held_out, strict=True)}
    size = sum(entry.end - entry.begin for entry in entries)
    size_held_out = sum(entry.end - entry.begin for entry, held in zip(entries, held_out, strict=True) if held)
    enough = len({entry.held_out_key for entry in entries}) >= FEWEST
    both = len(sides) == 2 * len({domain for domain, _ in sides})
    if enough and both and share / 2 <= size_held_out / size <= 2 * share:
        return [
            Part(entry.domain, "validation" if held else "training", entry.begin, entry.end)
            for entry, held in zip(entries, held_out, strict=True)
        ]
    return [part for entry in entries for part in _cut(spool, entry, share)]


def _cut(spool: Spool, entry: Entry, share: float) -> Iterator[Part]:
    wanted = entry.end - max(1, round((entry.end - entry.begin) * share))
    # A document of a single byte has no place to cut.
    cut = spool.line_near(wanted, entry.begin, entry.end) if wanted > entry.begin else entry.end
    yield Part(entry.domain, "training", entry.begin, cut)
    if cut < entry.end:
        yield Part(entry.domain, "validation", cut, entry.end)
