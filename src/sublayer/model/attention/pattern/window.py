"""Sliding-window attention."""

from typing import ClassVar, Literal

from sublayer.config import Count, Whole
from sublayer.model.attention.pattern.base import Causal, First, Near, Pattern, PatternConfig
from sublayer.model.part import Direction


@PatternConfig.registry.register
class WindowConfig(PatternConfig):
    """The nearest tokens only; with sinks, the first ones of the document as well."""

    paper: ClassVar[str] = "Beltagy et al. 2020, section 3.1; Child et al. 2019; sinks: Xiao et al. 2024, section 3.2"

    kind: Literal["window"] = "window"
    size: Count = 256
    """Decoder: a query sees `size` tokens, itself the last (0 ≤ i − j < size).  Encoder: |i − j| ≤ size // 2."""
    sinks: Whole = 0
    """First tokens of the document that stay in view of all that follow (StreamingLLM).  They keep the positions that
    they have; StreamingLLM counts positions anew within its cache."""

    def pattern(self, direction: Direction) -> Pattern:
        if direction == "causal":
            near: Pattern = Near(back=self.size - 1, ahead=0)
            return near | (First(self.sinks) & Causal()) if self.sinks else near
        near = Near(back=self.size // 2, ahead=self.size // 2)
        return near | First(self.sinks) if self.sinks else near
