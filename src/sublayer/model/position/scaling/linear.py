"""Position interpolation."""

from typing import ClassVar, Literal

from torch import Tensor

from sublayer.model.position.scaling.base import USUAL, Factor, ScalingConfig


@ScalingConfig.registry.register
class LinearConfig(ScalingConfig):
    """Divide every frequency, so that positions up to factor times as far fall between those known."""

    paper: ClassVar[str] = "Chen et al. 2023, equation 4"

    kind: Literal["linear"] = "linear"
    factor: Factor = USUAL
    """How many times as long as in training texts may be."""

    def frequencies(self, base_F: Tensor, theta: float, length_BT: Tensor | None) -> Tensor:
        return base_F / self.factor
