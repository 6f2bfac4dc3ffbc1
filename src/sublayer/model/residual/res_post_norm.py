"""Res-post-norm wiring."""

from typing import ClassVar, Literal

from torch import Tensor, nn

from sublayer.model.norm import NormConfig
from sublayer.model.part import StackShape
from sublayer.model.report import Report
from sublayer.model.residual.base import Box, Residual, ResidualConfig, as_input


@ResidualConfig.registry.register
class ResPostNormConfig(ResidualConfig):
    """x + Norm(Sublayer(x)), and a norm after the last block (Swin V2, OLMo 2)."""

    paper: ClassVar[str] = "Liu et al. 2022 (Swin V2), section 3.2; OLMo Team 2024, section 3.2"
    final_norm: ClassVar[bool] = True

    kind: Literal["res_post_norm"] = "res_post_norm"

    def build(self, shape: StackShape, norm: NormConfig, n_sublayers: int, layer: int) -> "ResPostNorm":
        return ResPostNorm(shape, norm, n_sublayers, layer)


class ResPostNorm(Residual):
    """x + Dropout(Norm(Sublayer(x)))."""

    def __init__(self, shape: StackShape, norm: NormConfig, n_sublayers: int, layer: int) -> None:
        super().__init__(shape, layer)
        self.output_norms = nn.ModuleList(norm.build(shape.d_model) for _ in range(n_sublayers))

    def around(self, i: int, box: Box, stream: Tensor) -> tuple[Tensor, Report]:
        y_BTD, report = box(as_input(stream))
        return stream + self.branch(self.output_norms[i](y_BTD.to(stream.dtype))), report
