"""NTK-aware scaling."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from sublayer.model.position.scaling.base import USUAL, Factor, ScalingConfig


@ScalingConfig.registry.register
class NtkConfig(ScalingConfig):
    """Raise θ so that the slowest pair turns as much slower as if interpolated, and the fastest as before."""

    paper: ClassVar[str] = "bloc97 2023; Peng et al. 2023, definition 1"

    kind: Literal["ntk"] = "ntk"
    factor: Factor = USUAL
    """How many times as long as in training texts may be."""

    def check(self, theta: float, width: int) -> None:
        refuse_one_pair(self.kind, width)

    def frequencies(self, base_F: Tensor, theta: float, length_BT: Tensor | None) -> Tensor:
        stretch = torch.full((1,), self.factor, device=base_F.device)
        return ntk_scaled(base_F, stretch)


def refuse_one_pair(kind: str, width: int) -> None:
    """Refuse a width whose slowest pair is also its fastest."""
    if width < 4:
        raise ValueError(
            f"{kind} scales the slowest pair of features and keeps the fastest, but only one is rotated; "
            "choose a larger d_head or fraction"
        )


def ntk_scaled(base_F: Tensor, stretch: Tensor) -> Tensor:
    """Frequencies for θ·s^(d/(d−2)), that is, θ^(−2i/d)·s^(−2i/(d−2)).

    Args:
        base_F: θ^(−2i/d).
        stretch: s, [..., 1].
    """
    exponents = torch.arange(len(base_F), device=base_F.device) / (len(base_F) - 1)
    return base_F * stretch**-exponents
