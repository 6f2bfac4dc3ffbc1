"""Learned absolute positions."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sublayer.model.initialise import Normal, Rule
from sublayer.model.part import CacheExact, Heads, StackShape
from sublayer.model.position.base import PositionConfig
from sublayer.model.position.embedded import EmbeddedPosition, EmbeddedPositionConfig


@PositionConfig.registry.register
class LearnedConfig(EmbeddedPositionConfig):
    """A trained vector for each position up to max_length, and none beyond it."""

    paper: ClassVar[str] = "Gehring et al. 2017, section 3.1; Devlin et al. 2018"

    kind: Literal["learned"] = "learned"

    def cache_exact(self, shape: StackShape) -> CacheExact:
        return CacheExact(length=shape.max_length)

    def longest(self, shape: StackShape) -> int:
        return shape.max_length

    def build(self, shape: StackShape, heads: Heads) -> "Learned":
        return Learned(self, shape)


class Learned(EmbeddedPosition):
    """A table of max_length vectors."""

    def __init__(self, config: LearnedConfig, shape: StackShape) -> None:
        super().__init__(config)
        assert config.d_position is not None
        self.std = shape.initialisation.embedding_std
        self.weight = nn.Parameter(torch.empty(shape.max_length, config.d_position))

    def vectors(self, positions_BT: Tensor) -> Tensor:
        return F.embedding(positions_BT, self.weight)

    def initial_values(self) -> Mapping[str, Rule]:
        return {"weight": Normal(self.std)}
