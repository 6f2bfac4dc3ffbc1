"""Offsets up to a distance, as rows of a table."""

from dataclasses import dataclass

from torch import Tensor

from sublayer.model.layout import Span
from sublayer.model.part import Direction


@dataclass(frozen=True, slots=True)
class Offsets:
    """The offsets that a table has a row for; those beyond have the row of the farthest.

    Attributes:
        farthest: the largest distance with a row of its own.
        direction: of the stack; a causal one needs no rows for keys ahead.
    """

    farthest: int
    direction: Direction

    @property
    def n_rows(self) -> int:
        return self.farthest + 1 if self.direction == "causal" else 2 * self.farthest + 1

    def rows(self, offsets: Tensor) -> Tensor:
        """The row of each offset, query position − key position; nearer keys behind come before farther ones."""
        if self.direction == "causal":
            return offsets.clamp(0, self.farthest)
        return offsets.clamp(-self.farthest, self.farthest) + self.farthest

    def of(self, span: Span) -> Tensor:
        """The row of each query and key, [1 or B, T, S]."""
        return span.once(f"rows of {self}", lambda: self.rows(span.offsets()))
