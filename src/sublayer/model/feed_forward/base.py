"""What a feed-forward is to the layer that holds it."""

from typing import Annotated, Any, ClassVar

from sublayer.model.part import ModelPart, StackShape
from sublayer.model.sublayer import Sublayer
from sublayer.registry import Registry


class FeedForwardConfig(ModelPart):
    """Base of the feed-forwards."""

    registry: ClassVar[Registry[Any]] = Registry("feed_forward")

    position_wise: ClassVar[bool] = True
    """Each token is computed by itself, and so the order of tokens is not seen."""

    def build(self, shape: StackShape) -> Sublayer | None:
        """The module (of a config filled in); None when there is no such sublayer."""
        raise NotImplementedError


FeedForwardChoice = Annotated[FeedForwardConfig, FeedForwardConfig.registry.choice()]
