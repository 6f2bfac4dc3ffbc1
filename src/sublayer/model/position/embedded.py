"""What the encodings that act on the embeddings share: being added to the token's vector, or standing beside it."""

from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from sublayer.config import Count
from sublayer.model.layout import Layout
from sublayer.model.part import StackShape
from sublayer.model.position.base import Position, PositionConfig


class EmbeddedPositionConfig(PositionConfig):
    """Base of the encodings that act on the embeddings."""

    embeds: ClassVar[bool] = True

    combine: Literal["add", "concatenate"] = "add"
    """Add the position's vector to the token's, or concatenate the two: d_token + d_position = d_model."""
    d_position: Count | None = None
    """Width of the position's vector when concatenated; left out, a quarter of d_model, made even."""

    def filled(self, shape: StackShape) -> Self:
        if self.combine == "add":
            if self.d_position not in (None, shape.d_model):
                raise ValueError(
                    f"d_position is {self.d_position}, but an added position is as wide as d_model ({shape.d_model}); "
                    "leave it out or set combine: concatenate"
                )
            return self.model_copy(update={"d_position": shape.d_model})
        width = self.d_position or max(2, shape.d_model // 8 * 2)
        if width >= shape.d_model:
            raise ValueError(
                f"d_position ({width}) leaves no width for the token in d_model ({shape.d_model}); choose a smaller one"
            )
        return self.model_copy(update={"d_position": width})

    def d_token(self, shape: StackShape) -> int:
        if self.combine == "add":
            return shape.d_model
        width = self.filled(shape).d_position
        assert width is not None
        return shape.d_model - width


class EmbeddedPosition(Position):
    """Combines a position's vector with the token's."""

    def __init__(self, config: EmbeddedPositionConfig) -> None:
        super().__init__()
        self.combine = config.combine

    def vectors(self, positions_BT: Tensor) -> Tensor:
        """The vector of each position, [..., d_position]."""
        raise NotImplementedError

    def embed(self, x_BTD: Tensor, layout: Layout) -> Tensor:
        assert layout.positions_BT is not None
        vectors = self.vectors(layout.positions_BT).to(x_BTD.dtype)
        if self.combine == "add":
            return x_BTD + vectors
        return torch.cat([x_BTD, vectors.expand(*x_BTD.shape[:-1], -1)], dim=-1)
