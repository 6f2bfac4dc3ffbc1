"""Two parts of a user's own, as they would stand in a file beside the user's YAML: `plugins: [plugin_parts.py]`."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sublayer import register
from sublayer.config import Count, Positive
from sublayer.model.attention.score import OffsetBias
from sublayer.model.feed_forward import FeedForwardConfig
from sublayer.model.layout import Span
from sublayer.model.part import Heads, StackShape
from sublayer.model.position import Position, PositionConfig
from sublayer.model.report import EMPTY, Report
from sublayer.model.state import Memory
from sublayer.model.sublayer import Context, Sublayer


@register
class DecayConfig(PositionConfig):
    """Lower each score by rate·√distance, the same in every head."""

    paper: ClassVar[str] = "made up for the tests"
    shift_invariant: ClassVar[bool] = True
    shorthands: ClassVar[Mapping[str, Mapping[str, Any]]] = {"fast_decay": {"rate": 2.0}}

    kind: Literal["decay"] = "decay"
    rate: Positive = 0.5
    """How fast."""

    def build(self, shape: StackShape, heads: Heads) -> Position:
        return Decay(self.rate, heads.count)


class Decay(Position):
    def __init__(self, rate: float, n_heads: int) -> None:
        super().__init__()
        self.rate, self.n_heads = rate, n_heads

    def prepare(self, q_BHTK: Tensor, k_BGSK: Tensor, span: Span, scale: float) -> OffsetBias:
        return OffsetBias(f"decay {self.rate} {self.n_heads}", self._bias)

    def _bias(self, offsets: Tensor) -> Tensor:
        return -self.rate * offsets.abs().float().sqrt()[:, None].expand(-1, self.n_heads, -1, -1)


@register
class BottleneckConfig(FeedForwardConfig):
    """One narrow hidden layer with tanh."""

    kind: Literal["bottleneck"] = "bottleneck"
    width: Count = 2
    """Hidden width."""

    def build(self, shape: StackShape) -> Sublayer:
        return Bottleneck(self.width, shape)


class Bottleneck(Sublayer):
    def __init__(self, width: int, shape: StackShape) -> None:
        super().__init__()
        # Plain linears with no rule of their own: they are initialised all the same.
        self.inward, self.outward = nn.Linear(shape.d_model, width), nn.Linear(width, shape.d_model)

    def forward(self, x_BTD: Tensor, context: Context, memory: Memory | None = None) -> tuple[Tensor, Report]:
        return self.outward(torch.tanh(self.inward(x_BTD))), EMPTY
