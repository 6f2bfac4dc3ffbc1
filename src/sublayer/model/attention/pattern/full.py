"""Full attention."""

from typing import ClassVar, Literal

from sublayer.model.attention.pattern.base import Causal, Everything, Pattern, PatternConfig
from sublayer.model.part import Direction


@PatternConfig.registry.register
class FullConfig(PatternConfig):
    """Every token of the document: all of it in an encoder, what stands before in a decoder."""

    paper: ClassVar[str] = "Vaswani et al. 2017, section 3.2"

    kind: Literal["full"] = "full"

    def pattern(self, direction: Direction) -> Pattern:
        return Causal() if direction == "causal" else Everything()
