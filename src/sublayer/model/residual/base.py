"""The wiring of a block: how a stream enters, passes around each sublayer, and leaves."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from sublayer.model.dropout import dropout
from sublayer.model.norm import NormConfig
from sublayer.model.part import ModelPart, StackShape
from sublayer.model.report import Report
from sublayer.model.residual.stochastic_depth import stochastic_depth
from sublayer.registry import Registry

Box = Callable[[Tensor], tuple[Tensor, Report]]
"""A sublayer as the wiring sees it: a normalised (or plain) input to an output and a report."""

Stream = Any
"""What a wiring carries from sublayer to sublayer: mostly [B, T, D]."""


class ResidualConfig(ModelPart):
    """Base of the residual wirings."""

    registry: ClassVar[Registry[Any]] = Registry("residual")

    final_norm: ClassVar[bool]
    """Whether a stack whose last block is wired so normalises what leaves it."""

    whole_stack: ClassVar[bool] = False
    """It is chosen for the whole stack, since what goes from block to block has another shape than in other wirings."""

    @classmethod
    def abilities(cls) -> tuple[str, ...]:
        told = ["a norm behind the last block"] if cls.final_norm else []
        told += ["chosen for the whole stack"] if cls.whole_stack else []
        return (*super().abilities(), *told)

    keeps_input: ClassVar[bool] = True
    """What a block reads reaches its output around the sublayers too, however little these pass on."""

    def gain(self, shape: StackShape) -> float | None:
        """Factor of the initial values of what a sublayer adds to the stream, in place of `depth_scaled`; or None."""
        return None

    def build(self, shape: StackShape, norm: NormConfig, n_sublayers: int, layer: int) -> "Residual":
        """The module for block number `layer`."""
        raise NotImplementedError


ResidualChoice = Annotated[ResidualConfig, ResidualConfig.registry.choice()]


class Residual(nn.Module):
    """Wires one block: `leave(around(n − 1, …around(0, box, enter(x))))`.  Shapes: B batch, T tokens, D d_model.

    Args:
        shape: of the stack.
        layer: the block's number, from 0.
    """

    def __init__(self, shape: StackShape, layer: int) -> None:
        super().__init__()
        self.dropout = shape.dropout
        self.left_out = shape.stochastic_depth * (layer + 1) / shape.n_layers

    def branch(self, y_BTD: Tensor) -> Tensor:
        """What is added of a sublayer's output: in training with dropout and stochastic depth."""
        return stochastic_depth(dropout(y_BTD, self.dropout, self.training), self.left_out, self.training)

    def enter(self, x_BTD: Tensor) -> Stream:
        """What comes from below → the block's stream."""
        return x_BTD

    def around(self, i: int, box: Box, stream: Stream) -> tuple[Stream, Report]:
        """The stream behind sublayer number `i`, and that sublayer's report."""
        raise NotImplementedError

    def leave(self, stream: Stream) -> Tensor:
        """The block's stream → what goes up."""
        left: Tensor = stream
        return left


def as_input(x: Tensor) -> Tensor:
    """`x` in autocast's dtype when autocast is on: cast once here, not by each matrix that reads it.

    The stream itself stays in float32.
    """
    if torch.is_autocast_enabled(x.device.type):
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x
