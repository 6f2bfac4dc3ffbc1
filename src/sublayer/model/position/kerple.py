"""KERPLE: kernels of the distance with learned parameters.

Shapes: H heads, T queries, S keys.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sublayer.model.attention.score import OffsetBias
from sublayer.model.initialise import Normal, Rule, Uniform
from sublayer.model.layout import Span
from sublayer.model.part import Heads, StackShape
from sublayer.model.position.base import Position, PositionConfig
from sublayer.model.precision import at_least_float32


@PositionConfig.registry.register
class KerpleConfig(PositionConfig):
    """Lower each score by a function of the distance with two learned numbers for each head and layer."""

    paper: ClassVar[str] = "Chi et al. 2022, equation 3 and corollary 1"
    shift_invariant: ClassVar[bool] = True
    shared: ClassVar[bool] = False

    kind: Literal["kerple"] = "kerple"
    variant: Literal["log", "power"] = "log"
    """Lower by r₁·ln(1 + r₂·|i − j|), or by r₁·|i − j|^r₂ with r₂ up to 2 (ALiBi is r₂ = 1)."""

    def build(self, shape: StackShape, heads: Heads) -> "Kerple":
        return Kerple(self, heads.count)


class Kerple(Position):
    """score(i, j) − r₁·ln(1 + r₂·|i − j|), or − r₁·|i − j|^r₂, with r₁, r₂ > 0.

    The parameters may take any value: r₁ is the size of its own, and so is r₂ for `log`; for `power` r₂ is 2·σ of it.
    (The authors push negative ones back to 0.01 after each step, which a module cannot do by itself.)
    """

    def __init__(self, config: KerpleConfig, n_heads: int) -> None:
        super().__init__()
        self.variant = config.variant
        self.r1 = nn.Parameter(torch.empty(n_heads))
        self.r2 = nn.Parameter(torch.empty(n_heads))

    def prepare(self, q_BHTK: Tensor, k_BGSK: Tensor, span: Span, scale: float) -> OffsetBias:
        return OffsetBias(None, self._bias)

    def _bias(self, offsets: Tensor) -> Tensor:
        r1, r2 = (at_least_float32(r)[:, None, None] for r in (self.r1, self.r2))
        distance = offsets.abs()[:, None].to(r1.dtype)
        if self.variant == "log":
            return -r1.abs() * (r2.abs() * distance).log1p()
        return -r1.abs() * distance ** (2 * r2.sigmoid())

    def initial_values(self) -> Mapping[str, Rule]:
        # As in the authors' code, where r₁ and r₂ of `log`, and r₁ of `power`, are drawn so.
        if self.variant == "log":
            return {"r1": Uniform(0, 2), "r2": Uniform(0, 1)}
        return {"r1": Uniform(0, 1), "r2": Normal(1.0)}
