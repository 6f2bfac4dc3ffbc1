"""Where arithmetic is kept accurate."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32, or in float64 when it is so already."""
    return x if x.dtype == torch.float64 else x.float()
