"""What a feed-forward is to the layer that holds it, and the activations."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from sublayer.model.part import ModelPart, StackShape
from sublayer.model.sublayer import Sublayer
from sublayer.registry import Registry

Activation = Literal["relu", "gelu", "gelu_tanh", "relu2", "silu", "sigmoid"]

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu2": lambda x: F.relu(x).square(),  # So et al. 2021
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
}


class FeedForwardConfig(ModelPart):
    """Base of the feed-forwards."""

    registry: ClassVar[Registry[Any]] = Registry("feed_forward")

    position_wise: ClassVar[bool] = True
    """Each token is computed by itself, and so the order of tokens is not seen."""

    def build(self, shape: StackShape) -> Sublayer | None:
        """The module (of a config filled in); None when there is no such sublayer."""
        raise NotImplementedError


FeedForwardChoice = Annotated[FeedForwardConfig, FeedForwardConfig.registry.choice()]
