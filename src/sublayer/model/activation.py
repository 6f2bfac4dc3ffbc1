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

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,  # on a gate: bilinear, Shazeer 2020, equation 5
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,  # Maas et al. 2013, with 0.01 below zero
    "relu2": lambda x: F.relu(x).square(),  # So et al. 2021
    "elu": F.elu,  # Clevert et al. 2016
    "gelu": F.gelu,  # Hendrycks and Gimpel 2016
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),  # the same, section 2, as in GPT-2
    "gelu_quick": lambda x: x * torch.sigmoid(1.702 * x),  # the same, section 2, as in CLIP
    "silu": F.silu,  # Elfwing et al. 2017; Ramachandran et al. 2017
    "mish": F.mish,  # Misra 2019
    "softplus": F.softplus,  # Dugas et al. 2001
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
