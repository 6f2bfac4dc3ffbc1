"""DeepNorm: a post-norm wiring for very deep stacks."""

from typing import ClassVar, Literal

from torch import Tensor, nn

from sublayer.model.norm import NormConfig
from sublayer.model.part import StackShape
from sublayer.model.report import Report
from sublayer.model.residual.base import Box, Residual, ResidualConfig, as_input


@ResidualConfig.registry.register
class DeepNormConfig(ResidualConfig):
    """Norm(α·x + Sublayer(x)), with smaller initial values: post-norm for very deep stacks.

    α, and the factor β of the initial values of feed-forward, value and output matrices, follow from the number of
    layers.
    """

    paper: ClassVar[str] = "Wang et al. 2022, figure 2"
    final_norm: ClassVar[bool] = False

    kind: Literal["deepnorm"] = "deepnorm"

    def gain(self, shape: StackShape) -> float:
        return constants(shape)[1]

    def build(self, shape: StackShape, norm: NormConfig, n_sublayers: int, layer: int) -> "DeepNorm":
        return DeepNorm(shape, norm, n_sublayers, layer)


def constants(shape: StackShape) -> tuple[float, float]:
    """α and β of a stack: with N layers of the encoder and M of the decoder, as the paper's table has them."""
    n = shape.n_layers
    if not shape.other_layers:
        return (2 * n) ** (1 / 4), (8 * n) ** (-1 / 4)
    if shape.stack == "decoder":
        return (3 * n) ** (1 / 4), (12 * n) ** (-1 / 4)
    depth = (n**4 * shape.other_layers) ** (1 / 16)
    return 0.81 * depth, 0.87 / depth


class DeepNorm(Residual):
    """Norm(α·x + Dropout(Sublayer(x)))."""

    def __init__(self, shape: StackShape, norm: NormConfig, n_sublayers: int, layer: int) -> None:
        super().__init__(shape, layer)
        self.alpha, _ = constants(shape)
        self.norms = nn.ModuleList(norm.build(shape.d_model) for _ in range(n_sublayers))

    def around(self, i: int, box: Box, stream: Tensor) -> tuple[Tensor, Report]:
        y_BTD, report = box(as_input(stream))
        normalised: Tensor = self.norms[i](self.alpha * stream + self.branch(y_BTD))
        return normalised, report
