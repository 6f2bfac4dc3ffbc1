"""Learned absolute positions."""

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sublayer.config import Count
from sublayer.model.initialise import Normal, Rule
from sublayer.model.part import CacheExact, Heads, StackShape
from sublayer.model.position.base import PositionConfig
from sublayer.model.position.embedded import EmbeddedPosition, EmbeddedPositionConfig


@PositionConfig.registry.register
class LearnedConfig(EmbeddedPositionConfig):
    """A trained vector for each position up to the last, and none beyond it."""

    paper: ClassVar[str] = "Gehring et al. 2017, section 3.1; Devlin et al. 2018"

    kind: Literal["learned"] = "learned"

    n_positions: Count | None = None
    """How many positions have a vector; left out, max_length, and never fewer."""

    def filled(self, shape: StackShape) -> Self:
        n_positions = self.n_positions or shape.max_length
        if n_positions < shape.max_length:
            raise ValueError(
                f"n_positions ({n_positions}) is below max_length ({shape.max_length}), so texts may be longer than "
                "there are positions; raise it or lower max_length"
            )
        return super().filled(shape).model_copy(update={"n_positions": n_positions})

    def cache_exact(self, shape: StackShape) -> CacheExact:
        return CacheExact(length=self.longest(shape))

    def longest(self, shape: StackShape) -> int:
        return self.n_positions or shape.max_length

    def build(self, shape: StackShape, heads: Heads) -> "Learned":
        return Learned(self, shape)


class Learned(EmbeddedPosition):
    """A table of vectors, a row for each position."""

    def __init__(self, config: LearnedConfig, shape: StackShape) -> None:
        super().__init__(config)
        assert config.d_position is not None and config.n_positions is not None
        self.std = shape.initialisation.embedding_std
        self.weight = nn.Parameter(torch.empty(config.n_positions, config.d_position))

    def vectors(self, positions_BT: Tensor) -> Tensor:
        return F.embedding(positions_BT, self.weight)

    def initial_values(self) -> Mapping[str, Rule]:
        return {"weight": Normal(self.std)}
