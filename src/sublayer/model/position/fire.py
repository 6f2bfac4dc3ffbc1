"""FIRE: a learned function of the distance, as a share of how far a query can look.

Shapes: B batch, H heads, T queries, S keys, F hidden units.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from sublayer.config import Count, Flag, Positive
from sublayer.model.attention.score import ScoreChange, by_key
from sublayer.model.initialise import Constant, Rule, Uniform
from sublayer.model.layout import Span
from sublayer.model.part import Direction, Heads, StackShape
from sublayer.model.position.base import Position, PositionConfig
from sublayer.model.precision import at_least_float32

SMALL = 1e-6
"""What keeps the divisor above 0, as in the paper's appendix."""


@PositionConfig.registry.register
class FireConfig(PositionConfig):
    """A small learned function of the distance over the query's position, both on a logarithmic scale."""

    paper: ClassVar[str] = "Li et al. 2024, equations 8 to 10"
    directions: ClassVar[frozenset[Direction]] = frozenset({"causal"})

    kind: Literal["fire"] = "fire"
    width: Count = 32
    """Hidden units of the function."""
    threshold: Positive | None = None
    """L at the start: queries nearer than this to the beginning of the text look as far as it; left out, a quarter of
    max_length, as in the paper."""
    c: Positive = 0.1
    """c at the start, in ψ(x) = ln(c·x + 1)."""
    all_layers: Flag = False
    """One function for all layers (FIRE-S); else each has its own."""

    @property
    def shared(self) -> bool:  # type: ignore[override]  # of the class, unless it says otherwise
        return self.all_layers

    @classmethod
    def abilities(cls) -> tuple[str, ...]:
        return (*super().abilities(), "one for each layer, or for all")

    def filled(self, shape: StackShape) -> Self:
        return self.model_copy(update={"threshold": self.threshold or shape.max_length / 4})

    def build(self, shape: StackShape, heads: Heads) -> "Fire":
        return Fire(self, heads.count)


class Fire(Position):
    """score(i, j) + f(ψ(i − j) / ψ(max(L, i))), with f of one hidden layer and ReLU, and ψ(x) = ln(c·x + 1)."""

    def __init__(self, config: FireConfig, n_heads: int) -> None:
        super().__init__()
        assert config.threshold is not None
        self.config = config
        self.c = nn.Parameter(torch.empty(1))
        self.threshold_factor = nn.Parameter(torch.empty(1))  # L itself is too large a number for a step to move
        self.hidden_weight = nn.Parameter(torch.empty(config.width))
        self.hidden_bias = nn.Parameter(torch.empty(config.width))
        self.output_weight = nn.Parameter(torch.empty(config.width, n_heads))
        self.output_bias = nn.Parameter(torch.empty(n_heads))

    def prepare(self, q_BHTK: Tensor, k_BGSK: Tensor, span: Span, scale: float) -> "FireBias":
        return FireBias(self)

    def bias(self, span: Span) -> Tensor:
        """What is added to the scores, [1 or B, H, T, S]."""
        return self.function(self.share(span))

    def share(self, span: Span) -> Tensor:
        """ψ(i − j) / ψ(max(L, i)), [1 or B, T, S]."""
        c, factor = at_least_float32(self.c).abs(), at_least_float32(self.threshold_factor).abs()
        assert self.config.threshold is not None
        farthest = torch.maximum(span.query_positions.to(c.dtype), factor * self.config.threshold)
        distance = (c * span.offsets().abs()).log1p()
        return distance / ((c * farthest).log1p() + SMALL)[..., None]

    def function(self, x_BTS: Tensor) -> Tensor:
        """f, of each head, [B, H, T, S].

        A sum of F ramps is a line between any two neighbouring places where one of them begins or ends.  So which line
        it is is looked up, which takes a hundredth of the time and the memory of F hidden units for each pair.
        """
        weight_F, bias_F, output_FH = (
            at_least_float32(x) for x in (self.hidden_weight, self.hidden_bias, self.output_weight)
        )
        flat = weight_F == 0
        bends_F = torch.where(flat, 0, -bias_F / torch.where(flat, 1, weight_F)).detach().sort().values
        outer = torch.cat([bends_F[:1] - 1, bends_F, bends_F[-1:] + 1])
        between = (outer[:-1] + outer[1:]) / 2  # a place on each of the F + 1 lines
        on = (weight_F * between[:, None] + bias_F > 0)[..., None]
        slopes = (on * (weight_F[:, None] * output_FH)).sum(1)
        heights = (on * (bias_F[:, None] * output_FH)).sum(1) + at_least_float32(self.output_bias)
        line = torch.bucketize(x_BTS.detach(), bends_F)
        slope, height = (by_key(values.T.contiguous()[None, :, None], line) for values in (slopes, heights))
        return slope * x_BTS[:, None] + height

    def initial_values(self) -> Mapping[str, Rule]:
        reach = self.config.width**-0.5  # as PyTorch draws the two linear layers of the paper's appendix
        return {
            "c": Constant(self.config.c),
            "threshold_factor": Constant(1.0),
            "hidden_weight": Uniform(-1, 1),
            "hidden_bias": Uniform(-1, 1),
            "output_weight": Uniform(-reach, reach),
            "output_bias": Uniform(-reach, reach),
        }


@dataclass(frozen=True)
class FireBias(ScoreChange):
    """What FIRE adds.

    Attributes:
        position: whose parameters it is made from.
    """

    position: Fire

    def dense(self, span: Span) -> Tensor:
        if not self.position.config.shared:
            return self.position.bias(span)
        return span.once(f"fire {id(self.position)}", lambda: self.position.bias(span))
