"""The functions between the matrices of a feed-forward, number by number."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Activation = Literal[
    "identity",
    "relu",
    "leaky_relu",
    "relu2",
    "elu",
    "gelu",
    "gelu_tanh",
    "gelu_quick",
    "silu",
    "mish",
    "softplus",
    "tanh",
    "sigmoid",
]


# By name, and not written in the table, so that a model that holds one can be pickled.


def identity(x: Tensor) -> Tensor:
    """x; on a gate, bilinear (Shazeer 2020, equation 5)."""
    return x


def relu2(x: Tensor) -> Tensor:
    """max(x, 0)² (So et al. 2021)."""
    return F.relu(x).square()


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by tanh (Hendrycks and Gimpel 2016, section 2), as in GPT-2."""
    return F.gelu(x, approximate="tanh")


def gelu_quick(x: Tensor) -> Tensor:
    """GELU by σ(1.702 x) (Hendrycks and Gimpel 2016, section 2), as in CLIP."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "identity": identity,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,  # Maas et al. 2013, with 0.01 below zero
    "relu2": relu2,
    "elu": F.elu,  # Clevert et al. 2016
    "gelu": F.gelu,  # Hendrycks and Gimpel 2016
    "gelu_tanh": gelu_tanh,
    "gelu_quick": gelu_quick,
    "silu": F.silu,  # Elfwing et al. 2017; Ramachandran et al. 2017
    "mish": F.mish,  # Misra 2019
    "softplus": F.softplus,  # Dugas et al. 2001
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def _relu2(gradient: Tensor, x: Tensor) -> Tensor:
    return gradient * (2 * F.relu(x))


def _gelu_quick(gradient: Tensor, x: Tensor) -> Tensor:
    sigmoid = torch.sigmoid(1.702 * x)
    return gradient * (sigmoid + 1.702 * x * sigmoid * (1 - sigmoid))


def _identity(gradient: Tensor, x: Tensor) -> Tensor:
    return gradient


_aten = torch.ops.aten

DERIVATIVES: dict[Activation, Callable[[Tensor, Tensor], Tensor]] = {
    "identity": _identity,
    "relu": lambda gradient, x: _aten.threshold_backward(gradient, x, 0),
    "leaky_relu": lambda gradient, x: _aten.leaky_relu_backward(gradient, x, 0.01, False),
    "relu2": _relu2,
    "elu": lambda gradient, x: _aten.elu_backward(gradient, 1.0, 1.0, 1.0, False, x),
    "gelu": _aten.gelu_backward,
    "gelu_tanh": lambda gradient, x: _aten.gelu_backward(gradient, x, approximate="tanh"),
    "gelu_quick": _gelu_quick,
    "silu": _aten.silu_backward,
    "mish": _aten.mish_backward,
    "softplus": lambda gradient, x: _aten.softplus_backward(gradient, x, 1.0, 20.0),
    "tanh": lambda gradient, x: _aten.tanh_backward(gradient, torch.tanh(x)),
    "sigmoid": lambda gradient, x: _aten.sigmoid_backward(gradient, torch.sigmoid(x)),
}
"""The gradient of x, given that of act(x) and x, for operations that are their own backward pass."""
