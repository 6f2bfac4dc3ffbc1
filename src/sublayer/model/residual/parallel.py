"""Parallel wiring."""

from typing import ClassVar, Literal

from torch import Tensor, nn

from sublayer.config import Flag
from sublayer.model.norm import NormConfig
from sublayer.model.part import StackShape
from sublayer.model.report import Report
from sublayer.model.residual.base import Box, Residual, ResidualConfig, as_input

Reading = tuple[Tensor, Tensor | None, Tensor]
"""The block's input, that normalised where the sublayers share a norm, and the sum so far: [B, T, D] each."""


@ResidualConfig.registry.register
class ParallelConfig(ResidualConfig):
    """x + Attention(Norm(x)) + FeedForward(Norm(x)): a block's sublayers read the same input."""

    paper: ClassVar[str] = "Wang and Komatsuzaki 2021 (GPT-J); Chowdhery et al. 2022, section 2; Black et al. 2022"
    final_norm: ClassVar[bool] = True

    kind: Literal["parallel"] = "parallel"
    shared_norm: Flag = True
    """One norm for all sublayers of a block, as in GPT-J and PaLM; false for one each, as in GPT-NeoX."""

    def build(self, shape: StackShape, norm: NormConfig, n_sublayers: int, layer: int) -> "Parallel":
        return Parallel(self, shape, norm, n_sublayers, layer)


class Parallel(Residual):
    """x + Σ Dropout(Sublayer(Norm(x)))."""

    def __init__(
        self, config: ParallelConfig, shape: StackShape, norm: NormConfig, n_sublayers: int, layer: int
    ) -> None:
        super().__init__(shape, layer)
        self.shared = config.shared_norm
        self.norms = nn.ModuleList(norm.build(shape.d_model) for _ in range(1 if self.shared else n_sublayers))

    def enter(self, x_BTD: Tensor) -> Reading:
        return x_BTD, as_input(self.norms[0](x_BTD)) if self.shared else None, x_BTD

    def around(self, i: int, box: Box, stream: Reading) -> tuple[Reading, Report]:
        x_BTD, normalised, total = stream
        y_BTD, report = box(as_input(self.norms[i](x_BTD)) if normalised is None else normalised)
        return (x_BTD, normalised, total + self.branch(y_BTD)), report

    def leave(self, stream: Reading) -> Tensor:
        return stream[2]
