"""What an attention is to the layer that holds it."""

from typing import Annotated, Any, ClassVar

from sublayer.model.part import ModelPart, StackShape
from sublayer.model.sublayer import Sublayer
from sublayer.registry import Registry


class AttentionConfig(ModelPart):
    """Base of the attentions."""

    registry: ClassVar[Registry[Any]] = Registry("attention", default_kind="multi_head")

    def d_rotated(self) -> int:
        """Width of each head's query and key that a rotary position may turn (of a config filled in)."""
        raise NotImplementedError

    def n_score_heads(self) -> int:
        """How many maps of scores the attention has (of a config filled in)."""
        raise NotImplementedError

    def build(self, shape: StackShape) -> Sublayer:
        """The module (of a config filled in)."""
        raise NotImplementedError


AttentionChoice = Annotated[AttentionConfig, AttentionConfig.registry.choice()]
