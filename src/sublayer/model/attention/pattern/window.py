"""Sliding-window attention."""

from typing import ClassVar, Literal

from sublayer.config import Count
from sublayer.model.attention.pattern.base import Near, Pattern, PatternConfig
from sublayer.model.part import Direction


@PatternConfig.registry.register
class WindowConfig(PatternConfig):
    """The nearest tokens only."""

    paper: ClassVar[str] = "Beltagy et al. 2020, section 3.1; Child et al. 2019"

    kind: Literal["window"] = "window"
    size: Count = 256
    """Decoder: a query sees `size` tokens, itself the last (0 ≤ i − j < size).  Encoder: |i − j| ≤ size // 2."""

    def pattern(self, direction: Direction) -> Pattern:
        if direction == "causal":
            return Near(back=self.size - 1, ahead=0)
        return Near(back=self.size // 2, ahead=self.size // 2)
