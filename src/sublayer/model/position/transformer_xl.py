"""The relative encoding of Transformer-XL.

Shapes: B batch, H heads, T queries, S keys, K head width, E width of the sinusoids, F = E / 2.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from sublayer.config import Count, Positive
from sublayer.model.attention.score import ScoreChange
from sublayer.model.initialise import Constant, Normal, Rule
from sublayer.model.layout import Layout, Span
from sublayer.model.part import Heads, StackShape
from sublayer.model.position.base import Position, PositionConfig
from sublayer.model.precision import at_least_float32, without_autocast


@PositionConfig.registry.register
class TransformerXlConfig(PositionConfig):
    """Score each query, with a learned bias, against a projected sinusoid of the distance as well as the key."""

    paper: ClassVar[str] = "Dai et al. 2019, section 3.3"
    shift_invariant: ClassVar[bool] = True
    shared: ClassVar[bool] = False

    kind: Literal["transformer_xl"] = "transformer_xl"
    theta: Positive = 10000.0
    """Longest wavelength of the sinusoids over 2π, in positions."""
    d_position: Count | None = None
    """Width of the sinusoids, which each head's query is multiplied by for every key; left out, d_model, made even."""

    def filled(self, shape: StackShape) -> Self:
        width = self.d_position or max(2, shape.d_model // 2 * 2)
        if width % 2:
            raise ValueError(f"sinusoids come in pairs, but their width is {width}; choose an even d_position")
        return self.model_copy(update={"d_position": width})

    def query_flops(self, shape: StackShape, heads: Heads) -> int:
        return 2 * heads.count * heads.width * self._width

    def pair_flops(self, heads: Heads) -> int:
        return 2 * heads.count * self._width

    def fixed_flops(self, heads: Heads) -> int:
        return self.pair_flops(heads)

    @property
    def _width(self) -> int:
        assert self.d_position is not None
        return self.d_position

    def build(self, shape: StackShape, heads: Heads) -> "TransformerXl":
        return TransformerXl(self, shape, heads)


class TransformerXl(Position):
    """Scores ((q_i + u)·k_j + (q_i + v)·W R_{i−j})·scale, with R_n = [sin(n·θ^(−2f/E)) …, cos(n·θ^(−2f/E)) …].

    u and v are of one layer and head, as with the authors' option `untie_r`.
    """

    def __init__(self, config: TransformerXlConfig, shape: StackShape, heads: Heads) -> None:
        super().__init__()
        assert config.d_position is not None
        self.width, self.theta = config.d_position, config.theta
        self.u = nn.Parameter(torch.empty(heads.count, heads.width))
        self.v = nn.Parameter(torch.empty(heads.count, heads.width))
        self.relative = nn.Parameter(torch.empty(heads.count, heads.width, self.width))
        self._std = shape.std(self.width)

    def rotate(self, q_BHTK: Tensor, k_BHTK: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        # The content's bias is of queries alone, so the kernel's own product with the keys serves it.
        return q_BHTK + self.u[:, None].to(q_BHTK.dtype), k_BHTK

    def prepare(self, q_BHTK: Tensor, k_BGSK: Tensor, span: Span, scale: float) -> "TransformerXlChange":
        return TransformerXlChange(self, q_BHTK, scale)

    def waves(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Sine and cosine of each position's angles, [..., F]."""
        even = torch.arange(0, self.width, 2, device=positions.device)
        angles = positions[..., None] * self.theta ** (-even.double() / self.width)
        return angles.sin().to(dtype), angles.cos().to(dtype)

    def initial_values(self) -> Mapping[str, Rule]:
        return {"u": Constant(0.0), "v": Constant(0.0), "relative": Normal(self._std)}


@dataclass(frozen=True)
class TransformerXlChange(ScoreChange):
    """What these queries get from the sinusoids.

    With sin(i − j) = sin i·cos j − cos i·sin j, and the like for the cosine, the product with R_{i−j} is one of the
    query, turned by its own position, with the sinusoids of the key's.  So there is a vector for each position and none
    for each pair, and positions may be any, as they are in a ring or among packed documents.

    Attributes:
        position: whose parameters they are.
        q_BHTK: queries, with u added.
        scale: of scores.
    """

    position: TransformerXl
    q_BHTK: Tensor
    scale: float

    def dense(self, span: Span) -> Tensor:
        own = self.position
        with without_autocast(self.q_BHTK):
            bias = at_least_float32(own.v) - at_least_float32(own.u)
            q_BHTK = (self.q_BHTK.to(bias.dtype) + bias[:, None]) * self.scale
            sine, cosine = (q_BHTK @ at_least_float32(own.relative)).chunk(2, dim=-1)
            name = f"waves {own.width} {own.theta} {bias.dtype}"
            sin_i, cos_i = span.once(f"{name} i", lambda: own.waves(span.query_positions[:, None], bias.dtype))
            sin_j, cos_j = span.once(f"{name} j", lambda: own.waves(span.key_positions[:, None], bias.dtype))
            turned = torch.cat([sine * sin_i + cosine * cos_i, cosine * sin_i - sine * cos_i], dim=-1)
            return turned @ torch.cat([cos_j, sin_j], dim=-1).transpose(-1, -2)
