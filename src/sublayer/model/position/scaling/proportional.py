"""p-RoPE: rotation by the fast pairs only."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from sublayer.config import Positive
from sublayer.model.position.scaling.base import Factor, ScalingConfig


@ScalingConfig.registry.register
class ProportionalConfig(ScalingConfig):
    """Keep the frequencies of a share of the pairs, the fastest, and let the others not turn (p-RoPE).

    Unlike with `fraction`, the frequencies that are kept are those of the whole width.
    """

    paper: ClassVar[str] = "Barbero et al. 2024, section 6.1"

    kind: Literal["proportional"] = "proportional"
    share: Annotated[Positive, Field(le=1)] = 0.75
    """p: the share of the pairs that turn."""
    factor: Factor = 1.0
    """What the frequencies are divided by besides."""

    def frequencies(self, base_F: Tensor, theta: float, length_BT: Tensor | None) -> Tensor:
        turning = torch.arange(len(base_F), device=base_F.device) < int(self.share * len(base_F))
        return torch.where(turning, base_F / self.factor, 0)
