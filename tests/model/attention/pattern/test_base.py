"""Patterns under `&` and `|`: what they show, and a reach that covers it."""

from dataclasses import dataclass
from itertools import product

import pytest
import torch
from torch import Tensor

from sublayer.model.attention.pattern.base import Causal, Everything, First, Near, Pattern, Reach
from sublayer.model.layout import Span

QUERIES, KEYS = torch.arange(24)[:, None], torch.arange(24)[None]


@dataclass(frozen=True)
class Pinned(Pattern):
    """The last `back` and the first `pinned` positions."""

    back: int
    pinned: int

    def visible(self, i: Tensor, j: Tensor) -> Tensor:
        return (j <= i) & ((i - j < self.back) | (j < self.pinned))

    @property
    def reach(self) -> Reach:
        return Reach(self.back, self.pinned)


PATTERNS = [
    First(3),
    First(4) & Causal(),
    Near(2, 0) | First(3),
    Causal(),
    Near(3, 0),
    Near(6, 0),
    Pinned(2, 4),
    Pinned(5, 1),
]
PAIRS = list(product(PATTERNS, PATTERNS))


@pytest.mark.parametrize(("left", "right"), PAIRS, ids=str)
def test_and_shows_what_both_show_and_or_what_either_shows(left: Pattern, right: Pattern) -> None:
    both, either = (left & right).visible(QUERIES, KEYS), (left | right).visible(QUERIES, KEYS)
    for i in range(24):
        for j in range(24):
            one = bool(left.visible(torch.tensor(i), torch.tensor(j)))
            other = bool(right.visible(torch.tensor(i), torch.tensor(j)))
            assert bool(both[i, j]) == (one and other)
            assert bool(either[i, j]) == (one or other)


@pytest.mark.parametrize(("left", "right"), PAIRS, ids=str)
def test_the_reach_of_a_combination_covers_all_that_it_shows(left: Pattern, right: Pattern) -> None:
    for pattern in (left & right, left | right):
        reach = pattern.reach
        for i in range(24):
            for j in range(24):
                kept = reach.back is None or i - j < reach.back or j < reach.pinned
                assert kept or not pattern.visible(torch.tensor(i), torch.tensor(j)), (pattern, i, j)


def test_the_reach_of_a_combination_is_not_wider_than_need_be() -> None:
    assert (Near(3, 0) & Near(6, 0)).reach == Reach(back=4)
    assert (Near(3, 0) | Near(6, 0)).reach == Reach(back=7)
    assert (Near(3, 0) & Causal()).reach == Reach(back=4)
    assert (Causal() & Near(3, 0)).reach == Reach(back=4)
    assert (Near(3, 0) | Causal()).reach == Reach(back=None)
    assert (Pinned(2, 4) | Near(6, 0)).reach == Reach(back=7, pinned=4)


def test_sees_itself_is_said_only_where_it_is_so() -> None:
    for pattern in (*PATTERNS, Everything(), *(a & b for a, b in PAIRS), *(a | b for a, b in PAIRS)):
        shown = pattern.visible(QUERIES, KEYS)
        assert not pattern.sees_itself or shown.diagonal().all()
    assert (Causal() & Near(2, 0)).sees_itself
    assert (Causal() | Pinned(2, 4)).sees_itself
    assert not (Causal() & Pinned(2, 4)).sees_itself, "what a pattern does not say is not assumed"


def test_patterns_that_print_alike_are_alike() -> None:
    """Layers share a mask by its pattern's text."""
    assert str(Near(3, 0)) == str(Near(3, 0)) != str(Near(3, 1))
    assert str(Near(3, 0) & Causal()) != str(Near(3, 0) | Causal())


def test_sees_all_is_said_only_where_it_is_so() -> None:
    newest = Span(torch.tensor([[9]]), torch.arange(10)[None], newest=True)
    ordinary = Span(torch.arange(10)[None], torch.arange(10)[None])
    for pattern in (*PATTERNS, Everything(), Causal() | Near(2, 0), Causal() & Near(2, 0)):
        for span in (newest, ordinary):
            shown = pattern.visible(span.query_positions[:, :, None], span.key_positions[:, None])
            assert not pattern.sees_all(span) or shown.all()
    assert Causal().sees_all(newest)
    assert not Causal().sees_all(ordinary)
    assert Everything().sees_all(ordinary)
