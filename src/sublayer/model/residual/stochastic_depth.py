"""Stochastic depth: in training, whole sublayers are left out.

Shapes: B batch, T tokens, D d_model.
"""

from torch import Tensor
from torch.nn import functional as F


def stochastic_depth(y_BTD: Tensor, probability: float, training: bool) -> Tensor:
    """In training each row of `y` 0 with this probability and the others scaled up; else `y` itself.

    Huang et al. 2016, section 3, leaves out a sublayer for a whole batch and scales at test time; to draw for each row
    and to scale in training has the same mean.
    """
    if not (training and probability):
        return y_BTD
    return y_BTD * F.dropout(y_BTD.new_ones(y_BTD.shape[0], *[1] * (y_BTD.dim() - 1)), probability)
