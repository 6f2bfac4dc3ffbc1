"""Pre-norm wiring."""

from typing import ClassVar, Literal

from torch import Tensor, nn

from sublayer.model.norm import NormConfig
from sublayer.model.part import StackShape
from sublayer.model.report import Report
from sublayer.model.residual.base import Box, Residual, ResidualConfig, as_input


@ResidualConfig.registry.register
class PreNormConfig(ResidualConfig):
    """x + Sublayer(Norm(x)), and a norm after the last block."""

    paper: ClassVar[str] = "Xiong et al. 2020; Radford et al. 2019, section 2.3"
    final_norm: ClassVar[bool] = True

    kind: Literal["pre_norm"] = "pre_norm"

    def build(self, shape: StackShape, norm: NormConfig, n_sublayers: int, layer: int) -> "PreNorm":
        return PreNorm(shape, norm, n_sublayers, layer)


class PreNorm(Residual):
    """x + Dropout(Sublayer(Norm(x)))."""

    def __init__(self, shape: StackShape, norm: NormConfig, n_sublayers: int, layer: int) -> None:
        super().__init__(shape, layer)
        self.norms = nn.ModuleList(norm.build(shape.d_model) for _ in range(n_sublayers))

    def around(self, i: int, box: Box, stream: Tensor) -> tuple[Tensor, Report]:
        y_BTD, report = box(as_input(self.norms[i](stream)))
        return stream + self.branch(y_BTD), report
