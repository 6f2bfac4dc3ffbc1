"""What a position encoding is: up to three places in which it acts, each defaulting to nothing."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from sublayer.model.attention.pattern.base import Pattern
from sublayer.model.attention.score import ScoreChange
from sublayer.model.layout import Layout, Span
from sublayer.model.part import Heads, ModelPart, StackShape
from sublayer.registry import Registry


class PositionConfig(ModelPart):
    """Base of the position encodings."""

    registry: ClassVar[Registry[Any]] = Registry("position")

    embeds: ClassVar[bool] = False
    """Acts on the embeddings, so it is chosen for the whole stack and not by layer."""
    shift_invariant: ClassVar[bool] = False
    """Adding a constant to all positions changes nothing."""

    shared: ClassVar[bool] = True
    """Layers that choose it alike share one module; if not, each has one of its own."""

    @property
    def changes_values(self) -> bool:
        """Whether its score changes also add to the output."""
        return False

    @classmethod
    def abilities(cls) -> tuple[str, ...]:
        # What a kind decides by its options is told by none of the two.
        told = ["shift-invariant"] if cls.shift_invariant is True else []
        told += ["acts on the embeddings"] if cls.embeds is True else []
        told += ["one for each layer"] if cls.shared is False else []
        return (*super().abilities(), *told)

    def d_token(self, shape: StackShape) -> int:
        """Width of the token embedding: d_model, less what is concatenated to it."""
        return shape.d_model

    def check(self, shape: StackShape, heads: Heads, seen: Pattern) -> None:
        """Refuse an attention that this encoding, already filled in, cannot serve.

        Args:
            shape: of the stack.
            heads: of the attention.
            seen: which keys its queries see.

        Raises:
            ValueError: in one sentence, with what to change.
        """

    def longest(self, shape: StackShape) -> int | None:
        """How many positions can be told apart from one another; None when they do not end."""
        return None

    def token_flops(self, weights: Mapping[str, tuple[int, ...]]) -> float:
        return 0.0  # what is looked up is free, and products are with queries and keys

    def query_flops(self, shape: StackShape, heads: Heads) -> int:
        """FLOPs that it adds for a query in the forward pass, in all heads."""
        return 0

    def pair_flops(self, heads: Heads) -> int:
        """FLOPs that it adds for a query and a key in the forward pass, in all heads; an addition is not counted."""
        return 0

    def fixed_flops(self, heads: Heads) -> int:
        """Of `pair_flops`, those of products with numbers that are not trained and so have one gradient, not two."""
        return 0

    def build(self, shape: StackShape, heads: Heads) -> "Position":
        """The module."""
        raise NotImplementedError


PositionChoice = Annotated[PositionConfig, PositionConfig.registry.choice()]


class Position(nn.Module):
    """A position encoding.  Shapes: B batch, T queries, S keys, H heads, G key/value heads, K head width, D d_model."""

    def embed(self, x_BTD: Tensor, layout: Layout) -> Tensor:
        """Token embeddings [B, T, d_token] → the stack's input [B, T, D]."""
        return x_BTD

    def rotate(self, q_BHTK: Tensor, k_BHTK: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Queries and keys of the same tokens → the same, changed by their own positions.  Caches hold changed keys."""
        return q_BHTK, k_BHTK

    def prepare(self, q_BHTK: Tensor, k_BGSK: Tensor, span: Span, scale: float) -> ScoreChange | None:
        """What to add to the scores of these queries and keys, their products times `scale`; None for nothing.

        G is the number of key/value heads, each of which serves H / G query heads.
        """
        return None
