"""No feed-forward."""

from typing import ClassVar, Literal

from sublayer.model.feed_forward.base import FeedForwardConfig
from sublayer.model.part import StackShape


@FeedForwardConfig.registry.register
class NoFeedForwardConfig(FeedForwardConfig):
    """Attention only: the layer has no second sublayer."""

    paper: ClassVar[str] = "Elhage et al. 2021; Dong et al. 2021"

    kind: Literal["none"] = "none"

    def build(self, shape: StackShape) -> None:
        return None
