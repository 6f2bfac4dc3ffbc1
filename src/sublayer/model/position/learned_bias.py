"""A learned bias for each head and offset.

Shapes: H heads, R rows, T queries, S keys.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from sublayer.config import Count
from sublayer.model.attention.score import OffsetBias, by_key
from sublayer.model.initialise import Normal, Rule
from sublayer.model.layout import Span
from sublayer.model.part import Heads, StackShape
from sublayer.model.position.base import Position, PositionConfig
from sublayer.model.position.offsets import Offsets
from sublayer.model.precision import at_least_float32


@PositionConfig.registry.register
class LearnedBiasConfig(PositionConfig):
    """A learned number for each head and offset up to a distance, added to the score; a table for each layer."""

    paper: ClassVar[str] = "Liu et al. 2021 (Swin), equation 4, in one dimension"
    shift_invariant: ClassVar[bool] = True
    shared: ClassVar[bool] = False

    kind: Literal["learned_bias"] = "learned_bias"
    max_distance: Count | None = None
    """The largest distance with a number of its own, which farther keys share; left out, max_length − 1."""

    def filled(self, shape: StackShape) -> Self:
        return self.model_copy(update={"max_distance": self.max_distance or max(1, shape.max_length - 1)})

    def build(self, shape: StackShape, heads: Heads) -> "LearnedBias":
        return LearnedBias(self, shape, heads.count)


class LearnedBias(Position):
    """score(i, j) + b[clip(i − j)], with b learned for each head."""

    def __init__(self, config: LearnedBiasConfig, shape: StackShape, n_heads: int) -> None:
        super().__init__()
        assert config.max_distance is not None
        self.offsets = Offsets(config.max_distance, shape.direction)
        self.weight = nn.Parameter(torch.empty(self.offsets.n_rows, n_heads))
        self._std = shape.initialisation.embedding_std

    def prepare(self, q_BHTK: Tensor, k_BGSK: Tensor, span: Span, scale: float) -> OffsetBias:
        return OffsetBias(None, self._bias)

    def _bias(self, offsets: Tensor) -> Tensor:
        table_HR = at_least_float32(self.weight).T.contiguous()
        return by_key(table_HR[None, :, None], self.offsets.rows(offsets))

    def initial_values(self) -> Mapping[str, Rule]:
        return {"weight": Normal(self._std)}
