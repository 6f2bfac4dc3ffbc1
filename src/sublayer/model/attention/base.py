"""What an attention is to the layer that holds it."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from torch import Tensor

from sublayer.model.attention.kernel import Example
from sublayer.model.attention.pattern.base import Causal, Everything, Pattern
from sublayer.model.layout import Span
from sublayer.model.part import Direction, Heads, ModelPart, StackShape
from sublayer.model.position.base import PositionConfig
from sublayer.model.sublayer import Sublayer
from sublayer.registry import Registry


class AttentionConfig(ModelPart):
    """Base of the attentions."""

    registry: ClassVar[Registry[Any]] = Registry("attention", default_kind="multi_head")

    crosses: ClassVar[bool] = False
    """Whether it may take its keys and values from a source, as the cross-attention of a decoder does."""

    @classmethod
    def abilities(cls) -> tuple[str, ...]:
        return (*super().abilities(), *(["cross-attention"] if cls.crosses else []))

    def across(self) -> "AttentionConfig":
        """The same, as a decoder attends with it to an encoder, where nothing else is chosen."""
        return self

    maps: ClassVar[int] = 1
    """How many times a pass asks the position what it adds to the scores of its heads."""

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

    def decoding_pair_flops(self) -> int:
        """FLOPs for the query of a decoding step and a key; left as it is, those of the forward pass."""
        return self.pair_flops()

    def source_flops(self, weights: Mapping[str, tuple[int, ...]]) -> float:
        """Of `token_flops`, what a cross-attention spends on each token of its source."""
        return 0.0

    def check(self, position: PositionConfig) -> None:
        """Refuse a position that this attention, already filled in, cannot carry.

        Raises:
            ValueError: in one sentence, with what to change.
        """

    def example(self, direction: Direction, span: Span, like: Tensor, decoding: bool) -> Example | None:
        """What its kernel is asked for (of a config filled in); None when it has no choice of kernel.

        Args:
            direction: of the stack.
            span: where the queries and keys stand.
            like: a number of the dtype and device of the queries, and with their need of a gradient.
            decoding: for a step with a cache, which may be computed in another way than a full pass.
        """
        return None

    def filled_across(self, shape: StackShape) -> Self:
        """This config filled in as that of a cross-attention.

        Raises:
            ValueError: when it cannot be one, or its sizes do not fit the stack's.
        """
        if not self.crosses:
            able = [f"'{part.kind_name()}'" for part in self.registry if part.crosses]
            raise ValueError(
                f"'{self.kind_name()}' attends within one sequence only; take {' or '.join(able)} as the "
                "cross-attention"
            )
        return self.filled(shape)

    def build(self, shape: StackShape, layer: int = 0, cross: bool = False) -> Sublayer:
        """The module (of a config filled in).

        Args:
            shape: of the stack.
            layer: the number of the block that it stands in, from 0.
            cross: take keys and values from the context's source (of a config that `crosses`).
        """
        raise NotImplementedError


AttentionChoice = Annotated[AttentionConfig, AttentionConfig.registry.choice()]
