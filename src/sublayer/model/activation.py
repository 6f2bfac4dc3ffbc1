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
