"""Rotary position embedding (RoPE)."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from sublayer.config import Positive
from sublayer.model.attention.pattern.base import Pattern
from sublayer.model.layout import Layout
from sublayer.model.part import Heads, StackShape
from sublayer.model.position.base import Position, PositionConfig
from sublayer.model.position.scaling import ScalingChoice
from sublayer.model.position.scaling.none import NoScalingConfig
from sublayer.model.precision import at_least_float32


@PositionConfig.registry.register
class RopeConfig(PositionConfig):
    """Rotate pairs of query and key features by angles proportional to the position."""

    paper: ClassVar[str] = "Su et al. 2021, equation 34"
    shift_invariant: ClassVar[bool] = True
    shorthands: ClassVar[Mapping[str, Mapping[str, Any]]] = {"rotary": {}}

    kind: Literal["rope"] = "rope"
    theta: Positive = 10000.0
    """Base of the wavelengths: pair i of a rotated width d turns by θ^(−2i/d) a position."""
    layout: Literal["half", "interleaved"] = "half"
    """Which features form a pair: (i, i + d/2) as in Llama and GPT-NeoX, or (2i, 2i + 1) as in the paper and GPT-J."""
    fraction: Annotated[Positive, Field(le=1)] = 1.0
    """Share of each head's features that is rotated, the first ones; the rest carries no position (GPT-NeoX)."""
    scaling: ScalingChoice = NoScalingConfig()
    """How the frequencies are changed for texts longer than in training."""

    def filled(self, shape: StackShape) -> Self:
        return self.model_copy(update={"scaling": self.scaling.filled(shape)})

    def width(self, d_head: int) -> int:
        """How many features of a head are rotated."""
        return int(d_head * self.fraction)

    def check(self, shape: StackShape, heads: Heads, seen: Pattern) -> None:
        d_head = heads.width
        width = self.width(d_head)
        if width < 2 or width % 2:
            raise ValueError(
                f"rope rotates pairs of features, but it would rotate {width} of each head's {d_head}; "
                "choose d_head and fraction so that their product is even and at least 2"
            )
        self.scaling.check(self.theta, width)

    def build(self, shape: StackShape, heads: Heads) -> "Rope":
        return Rope(self, heads.width)


class Rope(Position):
    """Rotates queries and keys, so that their product depends on the difference of their positions alone."""

    def __init__(self, config: RopeConfig, d_head: int) -> None:
        super().__init__()
        self.config = config
        self.width = config.width(d_head)
        self._name = f"rope {config} {self.width}"

    def rotate(self, q_BHTK: Tensor, k_BHTK: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        cos, sin = layout.once(self._name, lambda: self._angles(layout))
        if q_BHTK.shape[2] == 1:  # a decoding step, where the number of operations counts and not their size
            turned = self._turn(torch.cat([q_BHTK, k_BHTK], dim=1), cos, sin)
            return turned[:, : q_BHTK.shape[1]], turned[:, q_BHTK.shape[1] :]
        return self._turn(q_BHTK, cos, sin), self._turn(k_BHTK, cos, sin)

    def _angles(self, layout: Layout) -> tuple[Tensor, Tensor]:
        """What each feature is multiplied with, and what its partner in the pair, each [1 or B, 1, T, width].

        The first of a pair becomes first·cos − second·sin, and the second second·cos + first·sin.
        """
        assert layout.positions_BT is not None
        config, scaling = self.config, self.config.scaling
        even = torch.arange(0, self.width, 2, device=layout.positions_BT.device)
        # In float32 throughout: bfloat16 would hold 897 distinct values for the positions 0 … 8191.
        base_F = config.theta ** (-even.float() / self.width)
        frequencies = scaling.frequencies(base_F, config.theta, layout.lengths() if scaling.by_length else None)
        angles = (layout.positions_BT[..., None].float() * frequencies)[:, None]
        cos, sin = angles.cos(), angles.sin()
        if scaling.amplitude != 1:
            cos, sin = cos * scaling.amplitude, sin * scaling.amplitude
        if self.config.layout == "half":
            return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)
        return cos.repeat_interleave(2, dim=-1), torch.stack([-sin, sin], dim=-1).flatten(-2)

    def _turn(self, x_BHTK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        whole = self.width == x_BHTK.shape[-1]
        rotated = at_least_float32(x_BHTK if whole else x_BHTK[..., : self.width])
        if self.config.layout == "half":
            partner = rotated.roll(self.width // 2, dims=-1)
        else:
            partner = torch.unflatten(rotated, -1, (-1, 2)).flip(-1).flatten(-2)
        turned = (rotated * cos + partner * sin).to(x_BHTK.dtype)
        return turned if whole else torch.cat([turned, x_BHTK[..., self.width :]], dim=-1)
