"""Sandwich wiring."""

from typing import ClassVar, Literal

from torch import Tensor, nn

from sublayer.model.norm import NormConfig
from sublayer.model.part import StackShape
from sublayer.model.report import Report
from sublayer.model.residual.base import Box, Residual, ResidualConfig, as_input


@ResidualConfig.registry.register
class SandwichConfig(ResidualConfig):
    """x + Norm(Sublayer(Norm(x))), and a norm after the last block."""

    paper: ClassVar[str] = "Ding et al. 2021 (CogView), section 2.4; Gemma Team 2024 (Gemma 2), section 2"
    final_norm: ClassVar[bool] = True

    kind: Literal["sandwich"] = "sandwich"

    def build(self, shape: StackShape, norm: NormConfig, n_sublayers: int, layer: int) -> "Sandwich":
        return Sandwich(shape, norm, n_sublayers, layer)


class Sandwich(Residual):
    """x + Dropout(Norm(Sublayer(Norm(x))))."""

    def __init__(self, shape: StackShape, norm: NormConfig, n_sublayers: int, layer: int) -> None:
        super().__init__(shape, layer)
        self.norms = nn.ModuleList(norm.build(shape.d_model) for _ in range(n_sublayers))
        self.output_norms = nn.ModuleList(norm.build(shape.d_model) for _ in range(n_sublayers))

    def around(self, i: int, box: Box, stream: Tensor) -> tuple[Tensor, Report]:
        y_BTD, report = box(as_input(self.norms[i](stream)))
        return stream + self.branch(self.output_norms[i](y_BTD.to(stream.dtype))), report
