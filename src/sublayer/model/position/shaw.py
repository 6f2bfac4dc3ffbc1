"""Relative position representations: a learned vector for each offset, added to keys and to values.

Shapes: B batch, H heads, T queries, S keys, K head width, R rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sublayer.config import Count, Flag
from sublayer.model.attention.score import ScoreChange, by_key
from sublayer.model.initialise import Normal, Rule
from sublayer.model.layout import Span
from sublayer.model.part import Heads, StackShape
from sublayer.model.position.base import Position, PositionConfig
from sublayer.model.position.offsets import Offsets
from sublayer.model.precision import at_least_float32, without_autocast


@PositionConfig.registry.register
class ShawConfig(PositionConfig):
    """Add to each key, and to each value, a learned vector for how far back it lies; tables for each layer."""

    paper: ClassVar[str] = "Shaw et al. 2018, equations 3 and 4"
    shift_invariant: ClassVar[bool] = True
    shared: ClassVar[bool] = False

    kind: Literal["shaw"] = "shaw"
    max_distance: Count = 16
    """The largest distance with a vector of its own, which farther keys share."""
    to_values: Flag = True
    """Add to values as well as to keys."""
    by_head: Flag = False
    """A table for each head; else one that all heads of the layer share."""

    @property
    def changes_values(self) -> bool:
        return self.to_values

    def query_flops(self, shape: StackShape, heads: Heads) -> int:
        rows = Offsets(self.max_distance, shape.direction).n_rows
        return 2 * heads.count * rows * heads.width * (1 + self.to_values)

    def build(self, shape: StackShape, heads: Heads) -> "Shaw":
        return Shaw(self, shape, heads)


class Shaw(Position):
    """Scores q_i·(k_j + a_clip(i−j))·scale, and outputs Σ_j weight_ij (v_j + b_clip(i−j))."""

    def __init__(self, config: ShawConfig, shape: StackShape, heads: Heads) -> None:
        super().__init__()
        self.offsets = Offsets(config.max_distance, shape.direction)
        tables = heads.count if config.by_head else 1
        self.keys = nn.Parameter(torch.empty(tables, self.offsets.n_rows, heads.width))
        self.values = nn.Parameter(torch.empty(tables, self.offsets.n_rows, heads.width)) if config.to_values else None
        self._std = shape.initialisation.embedding_std

    def prepare(self, q_BHTK: Tensor, k_BGSK: Tensor, span: Span, scale: float) -> "ShawChange":
        return ShawChange(self, q_BHTK, scale)

    def initial_values(self) -> Mapping[str, Rule]:
        return {"keys": Normal(self._std)} | ({} if self.values is None else {"values": Normal(self._std)})


@dataclass(frozen=True)
class ShawChange(ScoreChange):
    """What these queries get from the tables.

    A query meets each of the R vectors once, and each key is given one of the R products, so that no vector is laid out
    for each pair; and so backwards with the weights of the values.

    Attributes:
        position: whose tables they are.
        q_BHTK: queries.
        scale: of scores.
    """

    position: Shaw
    q_BHTK: Tensor
    scale: float

    @property
    def changes_values(self) -> bool:  # type: ignore[override]  # of the class, unless it says otherwise
        return self.position.values is not None

    def dense(self, span: Span) -> Tensor:
        with without_autocast(self.q_BHTK):
            table_HRK = at_least_float32(self.position.keys)
            q_BHTK = self.q_BHTK.to(table_HRK.dtype) * self.scale
            return by_key(q_BHTK @ table_HRK.transpose(-1, -2), self.position.offsets.of(span))

    def values(self, weights_BHTS: Tensor, span: Span) -> Tensor:
        assert self.position.values is not None
        with without_autocast(weights_BHTS):
            table_HRK = at_least_float32(self.position.values)
            weights = weights_BHTS.to(table_HRK.dtype)
            rows = self.position.offsets.of(span)[:, None].expand_as(weights)
            together = weights.new_zeros(*weights.shape[:3], table_HRK.shape[1]).scatter_add(3, rows, weights)
            return together @ table_HRK
