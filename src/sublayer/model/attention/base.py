"""What an attention is to the layer that holds it."""

from typing import Annotated, Any, ClassVar

from sublayer.model.part import Heads, ModelPart, StackShape
from sublayer.model.sublayer import Sublayer
from sublayer.registry import Registry


class AttentionConfig(ModelPart):
    """Base of the attentions."""

    registry: ClassVar[Registry[Any]] = Registry("attention", default_kind="multi_head")

    def heads(self) -> Heads:
        """What a position needs to know (of a config filled in)."""
        raise NotImplementedError

    def build(self, shape: StackShape) -> Sublayer:
        """The module (of a config filled in)."""
        raise NotImplementedError


AttentionChoice = Annotated[AttentionConfig, AttentionConfig.registry.choice()]
