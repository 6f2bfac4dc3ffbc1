"""No wiring at all."""

from typing import ClassVar, Literal, Self

from torch import Tensor, nn

from sublayer.config import Flag
from sublayer.model.norm import NormConfig
from sublayer.model.part import StackShape
from sublayer.model.report import Report
from sublayer.model.residual.base import Box, Residual, ResidualConfig, as_input


@ResidualConfig.registry.register
class NoResidualConfig(ResidualConfig):
    """Sublayer(x), with nothing around it: for studies of what sublayers do by themselves, such as rank collapse."""

    paper: ClassVar[str] = "Dong et al. 2021, section 2"
    final_norm: ClassVar[bool] = False
    keeps_input: ClassVar[bool] = False

    kind: Literal["none"] = "none"
    norm: Flag = False
    """Normalise what each sublayer reads."""

    def filled(self, shape: StackShape) -> Self:
        if shape.stochastic_depth:
            raise ValueError(
                "of a sublayer that is left out nothing goes on, as nothing goes around it; set stochastic_depth: 0 or "
                "choose another residual"
            )
        return self

    def build(self, shape: StackShape, norm: NormConfig, n_sublayers: int, layer: int) -> "NoResidual":
        return NoResidual(self, shape, norm, n_sublayers, layer)


class NoResidual(Residual):
    """Dropout(Sublayer(x)), or Dropout(Sublayer(Norm(x)))."""

    def __init__(
        self, config: NoResidualConfig, shape: StackShape, norm: NormConfig, n_sublayers: int, layer: int
    ) -> None:
        super().__init__(shape, layer)
        self.norms = nn.ModuleList(norm.build(shape.d_model) for _ in range(n_sublayers)) if config.norm else None

    def around(self, i: int, box: Box, stream: Tensor) -> tuple[Tensor, Report]:
        y_BTD, report = box(as_input(stream if self.norms is None else self.norms[i](stream)))
        return self.branch(y_BTD).to(stream.dtype), report
