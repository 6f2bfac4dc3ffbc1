"""What an attention is to the layer that holds it."""

from typing import Annotated, Any, ClassVar

from sublayer.model.attention.pattern.base import Causal, Everything, Pattern
from sublayer.model.part import Direction, Heads, ModelPart, StackShape
from sublayer.model.sublayer import Sublayer
from sublayer.registry import Registry


class AttentionConfig(ModelPart):
    """Base of the attentions."""

    registry: ClassVar[Registry[Any]] = Registry("attention", default_kind="multi_head")

    def heads(self) -> Heads:
        """What a position needs to know (of a config filled in)."""
        raise NotImplementedError

    def seen(self, direction: Direction) -> Pattern:
        """Which keys a query sees in a stack of this direction; left as it is, all that the direction allows."""
        return Causal() if direction == "causal" else Everything()

    def pair_flops(self) -> int:
        """FLOPs for a query and a key in the forward pass (of a config filled in), in all heads.

        Left as it is, one product of their features and one with the value's, which is as wide.
        """
        heads = self.heads()
        return 4 * heads.count * heads.width

    def build(self, shape: StackShape) -> Sublayer:
        """The module (of a config filled in)."""
        raise NotImplementedError


AttentionChoice = Annotated[AttentionConfig, AttentionConfig.registry.choice()]
