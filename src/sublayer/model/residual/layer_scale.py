"""LayerScale wiring.

Shapes: B batch, T tokens, D d_model.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from sublayer.config import NonNegative
from sublayer.model.initialise import Constant, Rule
from sublayer.model.norm import NormConfig
from sublayer.model.part import StackShape
from sublayer.model.report import Report
from sublayer.model.residual.base import Box, Residual, ResidualConfig, as_input


@ResidualConfig.registry.register
class LayerScaleConfig(ResidualConfig):
    """x + λ ⊙ Sublayer(Norm(x)) with a small learned λ for each feature, and a norm after the last block."""

    paper: ClassVar[str] = "Touvron et al. 2021 (CaiT), equation 4"
    final_norm: ClassVar[bool] = True

    kind: Literal["layer_scale"] = "layer_scale"
    initial: NonNegative | None = None
    """The value that each λ starts from; left out, as in the paper: 0.1 up to 18 layers, 1e-5 up to 24, then 1e-6."""

    def filled(self, shape: StackShape) -> Self:
        depth = shape.n_layers
        by_depth = 0.1 if depth <= 18 else 1e-5 if depth <= 24 else 1e-6
        return self.model_copy(update={"initial": by_depth if self.initial is None else self.initial})

    def build(self, shape: StackShape, norm: NormConfig, n_sublayers: int, layer: int) -> "LayerScale":
        return LayerScale(self, shape, norm, n_sublayers, layer)


class LayerScale(Residual):
    """x + λ ⊙ Dropout(Sublayer(Norm(x)))."""

    def __init__(
        self, config: LayerScaleConfig, shape: StackShape, norm: NormConfig, n_sublayers: int, layer: int
    ) -> None:
        super().__init__(shape, layer)
        assert config.initial is not None
        self._initial = config.initial
        self.norms = nn.ModuleList(norm.build(shape.d_model) for _ in range(n_sublayers))
        # One vector each, as norms have, so that optimizers take them for what they are.
        self.scales_D = nn.ParameterList(torch.empty(shape.d_model) for _ in range(n_sublayers))

    def around(self, i: int, box: Box, stream: Tensor) -> tuple[Tensor, Report]:
        y_BTD, report = box(as_input(self.norms[i](stream)))
        return stream + self.scales_D[i] * self.branch(y_BTD), report

    def initial_values(self) -> Mapping[str, Rule]:
        return {f"scales_D.{i}": Constant(self._initial) for i in range(len(self.scales_D))}
