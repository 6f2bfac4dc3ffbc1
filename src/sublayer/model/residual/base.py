"""The wiring of a block: how a stream enters, passes around each sublayer, and leaves."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from sublayer.model.norm import NormConfig
from sublayer.model.part import ModelPart, StackShape
from sublayer.model.report import Report
from sublayer.registry import Registry

Box = Callable[[Tensor], tuple[Tensor, Report]]
"""A sublayer as the wiring sees it: a normalised (or plain) input to an output and a report."""


class ResidualConfig(ModelPart):
    """Base of the residual wirings."""

    registry: ClassVar[Registry[Any]] = Registry("residual")

    final_norm: ClassVar[bool]
    """Whether a stack whose last block is wired so normalises what leaves it."""

    def build(self, shape: StackShape, norm: NormConfig, n_sublayers: int, layer: int) -> "Residual":
        """The module for block number `layer`."""
        raise NotImplementedError


ResidualChoice = Annotated[ResidualConfig, ResidualConfig.registry.choice()]


class Residual(nn.Module):
    """Wires one block: `leave(around(n − 1, …around(0, box, enter(x))))`.  Shapes: B batch, T tokens, D d_model."""

    def enter(self, x_BTD: Tensor) -> Tensor:
        """What comes from below → the block's stream."""
        return x_BTD

    def around(self, i: int, box: Box, stream: Tensor) -> tuple[Tensor, Report]:
        """The stream behind sublayer number `i`, and that sublayer's report."""
        raise NotImplementedError

    def leave(self, stream: Tensor) -> Tensor:
        """The block's stream → what goes up."""
        return stream


def as_input(x: Tensor) -> Tensor:
    """`x` in autocast's dtype when autocast is on: cast once here, not by each matrix that reads it.

    The stream itself stays in float32.
    """
    if torch.is_autocast_enabled(x.device.type):
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x
