"""The product of rows with the matrix of the group that each row is in.

Shapes: M rows, E groups, I inputs, O outputs.
"""

import torch
from torch import Tensor


def grouped_linear(x_MI: Tensor, weight_EOI: Tensor, count_E: Tensor) -> Tensor:
    """x Wᵀ with each row's own W, [M, O].

    Args:
        x_MI: rows sorted by group.
        weight_EOI: a matrix for each group.
        count_E: rows of each group (int64); they add up to M.
    """
    return looped_linear(x_MI, weight_EOI, count_E)


def looped_linear(x_MI: Tensor, weight_EOI: Tensor, count_E: Tensor) -> Tensor:
    """The same group by group: the reference."""
    rows = torch.split(x_MI, count_E.tolist())
    return torch.cat([part @ weight.T for part, weight in zip(rows, weight_EOI, strict=True)])
