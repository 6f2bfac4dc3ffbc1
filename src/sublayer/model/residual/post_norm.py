"""Post-norm wiring."""

from typing import ClassVar, Literal

from torch import Tensor, nn

from sublayer.model.norm import NormConfig
from sublayer.model.part import StackShape
from sublayer.model.report import Report
from sublayer.model.residual.base import Box, Residual, ResidualConfig, as_input


@ResidualConfig.registry.register
class PostNormConfig(ResidualConfig):
    """Norm(x + Sublayer(x)), as in the original Transformer."""

    paper: ClassVar[str] = "Vaswani et al. 2017, section 3.1"
    final_norm: ClassVar[bool] = False

    kind: Literal["post_norm"] = "post_norm"

    def build(self, shape: StackShape, norm: NormConfig, n_sublayers: int, layer: int) -> "PostNorm":
        return PostNorm(shape, norm, n_sublayers, layer)


class PostNorm(Residual):
    """Norm(x + Dropout(Sublayer(x)))."""

    def __init__(self, shape: StackShape, norm: NormConfig, n_sublayers: int, layer: int) -> None:
        super().__init__(shape, layer)
        self.norms = nn.ModuleList(norm.build(shape.d_model) for _ in range(n_sublayers))

    def around(self, i: int, box: Box, stream: Tensor) -> tuple[Tensor, Report]:
        y_BTD, report = box(as_input(stream))
        normalised: Tensor = self.norms[i](stream + self.branch(y_BTD))
        return normalised, report
