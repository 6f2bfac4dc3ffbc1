"""Which keys a query may see: one predicate over positions, from which every mask and cache size follows."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from sublayer.model.layout import Span
from sublayer.model.part import Direction, ModelPart
from sublayer.registry import Registry

LOOKED_AT = 4096
"""Queries that are looked at to count what a pattern shows."""


@dataclass(frozen=True)
class Reach:
    """How far a pattern looks.

    Attributes:
        back: how many positions a query sees, its own included, counted backwards; None for all of them.
        pinned: how many of the first positions stay in view besides.
    """

    back: int | None = None
    pinned: int = 0

    @property
    def kept(self) -> int | None:
        """How many tokens are all that need to be kept; None when it is all of them."""
        return None if self.back is None else self.back + self.pinned


class Pattern(ABC):
    """A predicate over in-document positions, closed under `&` and `|`.

    Two patterns that print alike are alike: `str()` names the masks that layers share.
    """

    @abstractmethod
    def visible(self, i: Tensor, j: Tensor) -> Tensor:
        """Whether the query at position `i` sees the key at position `j` (broadcast against each other; bool)."""

    @property
    def reach(self) -> Reach:
        """How far back a query looks; decoding keeps no more.  One that does not say looks everywhere."""
        return Reach()

    def n_pairs(self, length: int) -> float:
        """How many query-key pairs of one document of `length` tokens are visible.

        Left as it is, counted by looking: at each query of a document up to LOOKED_AT tokens, and at so many of them,
        spread at random (the same each time), of a longer one.
        """
        if length <= LOOKED_AT:
            queries = torch.arange(length)
        else:
            queries = torch.randint(length, (LOOKED_AT,), generator=torch.Generator().manual_seed(0))
        keys, n_rows, seen = torch.arange(length), max(1, 2**22 // length), 0
        for block in torch.split(queries, n_rows):
            seen += int(self.visible(block[:, None], keys[None, :]).sum())
        return seen * length / len(queries)

    def sees_all(self, span: Span) -> bool:
        """Whether it is known without looking that every query of `span` sees every key."""
        return False

    @property
    def sees_itself(self) -> bool:
        """Whether it is known without looking that every query sees the key of its own position."""
        return False

    def __and__(self, other: "Pattern") -> "Pattern":
        return Intersection(self, other)

    def __or__(self, other: "Pattern") -> "Pattern":
        return Union(self, other)


@dataclass(frozen=True)
class Everything(Pattern):
    """Every query sees every key."""

    def visible(self, i: Tensor, j: Tensor) -> Tensor:
        return (i == i) & (j == j)

    def n_pairs(self, length: int) -> float:
        return length * length

    @property
    def sees_itself(self) -> bool:
        return True

    def sees_all(self, span: Span) -> bool:
        return True


@dataclass(frozen=True)
class Causal(Pattern):
    """A query sees itself and what stands before it."""

    def visible(self, i: Tensor, j: Tensor) -> Tensor:
        return j <= i

    def n_pairs(self, length: int) -> float:
        return length * (length + 1) // 2

    @property
    def sees_itself(self) -> bool:
        return True

    def sees_all(self, span: Span) -> bool:
        return span.newest


@dataclass(frozen=True)
class Near(Pattern):
    """A query sees keys at most `back` positions before and `ahead` positions after it."""

    back: int
    ahead: int

    def visible(self, i: Tensor, j: Tensor) -> Tensor:
        return (i - j <= self.back) & (j - i <= self.ahead)

    def n_pairs(self, length: int) -> float:
        # Each query sees itself, and on each side what is there, up to the width.
        sides = (min(width, length - 1) for width in (self.back, self.ahead))
        return length + sum(width * (width + 1) // 2 + width * (length - 1 - width) for width in sides)

    @property
    def sees_itself(self) -> bool:
        return True

    @property
    def reach(self) -> Reach:
        return Reach(back=self.back + 1)


@dataclass(frozen=True)
class First(Pattern):
    """A query sees the first `count` positions of its document, behind it or ahead."""

    count: int

    def visible(self, i: Tensor, j: Tensor) -> Tensor:
        return (i == i) & (j < self.count)

    @property
    def reach(self) -> Reach:
        return Reach(back=0, pinned=self.count)


@dataclass(frozen=True)
class Intersection(Pattern):
    """What both patterns see."""

    left: Pattern
    right: Pattern

    def visible(self, i: Tensor, j: Tensor) -> Tensor:
        return self.left.visible(i, j) & self.right.visible(i, j)

    @property
    def sees_itself(self) -> bool:
        return self.left.sees_itself and self.right.sees_itself

    @property
    def reach(self) -> Reach:
        left, right = self.left.reach, self.right.reach
        if left.back is None or right.back is None:
            return right if left.back is None else left
        # A key pinned by one side may be in view of the other as a near one, so all pinned ones are kept.
        return Reach(min(left.back, right.back), max(left.pinned, right.pinned))

    def sees_all(self, span: Span) -> bool:
        return self.left.sees_all(span) and self.right.sees_all(span)


@dataclass(frozen=True)
class Union(Pattern):
    """What either pattern sees."""

    left: Pattern
    right: Pattern

    def visible(self, i: Tensor, j: Tensor) -> Tensor:
        return self.left.visible(i, j) | self.right.visible(i, j)

    @property
    def sees_itself(self) -> bool:
        return self.left.sees_itself or self.right.sees_itself

    @property
    def reach(self) -> Reach:
        left, right = self.left.reach, self.right.reach
        if left.back is None or right.back is None:
            return Reach()
        return Reach(max(left.back, right.back), max(left.pinned, right.pinned))

    def sees_all(self, span: Span) -> bool:
        return self.left.sees_all(span) or self.right.sees_all(span)


class PatternConfig(ModelPart):
    """Base of the attention patterns."""

    registry: ClassVar[Registry[Any]] = Registry("pattern")

    def pattern(self, direction: Direction) -> Pattern:
        """The predicate in a stack of this direction; in a causal one it shows nothing ahead of the query."""
        raise NotImplementedError


PatternChoice = Annotated[PatternConfig, PatternConfig.registry.choice()]
