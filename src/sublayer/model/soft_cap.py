"""Soft-capped scores."""

import torch
from torch import Tensor


def soft_capped(scores: Tensor, cap: float | None) -> Tensor:
    """c·tanh(x/c), which keeps scores between −c and c (Gemma Team 2024, section 2); without a cap, x."""
    return scores if cap is None else cap * torch.tanh(scores / cap)
