"""ReZero wiring."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sublayer.model.initialise import Constant, Rule
from sublayer.model.norm import NormConfig
from sublayer.model.part import StackShape
from sublayer.model.report import Report
from sublayer.model.residual.base import Box, Residual, ResidualConfig, as_input


@ResidualConfig.registry.register
class ReZeroConfig(ResidualConfig):
    """x + α·Sublayer(x) with a learned α for each sublayer, 0 at the start, and no norm at all."""

    paper: ClassVar[str] = "Bachlechner et al. 2020, equation 1 and section 5"
    final_norm: ClassVar[bool] = False

    kind: Literal["rezero"] = "rezero"

    def build(self, shape: StackShape, norm: NormConfig, n_sublayers: int, layer: int) -> "ReZero":
        return ReZero(shape, n_sublayers, layer)


class ReZero(Residual):
    """x + α·Dropout(Sublayer(x))."""

    def __init__(self, shape: StackShape, n_sublayers: int, layer: int) -> None:
        super().__init__(shape, layer)
        self.alpha = nn.Parameter(torch.empty(n_sublayers))

    def around(self, i: int, box: Box, stream: Tensor) -> tuple[Tensor, Report]:
        y_BTD, report = box(as_input(stream))
        return stream + self.alpha[i] * self.branch(y_BTD), report

    def initial_values(self) -> Mapping[str, Rule]:
        return {"alpha": Constant(0.0)}
