"""No scaling."""

from typing import ClassVar, Literal

from torch import Tensor

from sublayer.model.position.scaling.base import ScalingConfig


@ScalingConfig.registry.register
class NoScalingConfig(ScalingConfig):
    """The frequencies as they are."""

    paper: ClassVar[str] = "Su et al. 2021, section 3.2.2"

    kind: Literal["none"] = "none"

    def frequencies(self, base_F: Tensor, theta: float, length_BT: Tensor | None) -> Tensor:
        return base_F
