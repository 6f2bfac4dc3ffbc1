"""Tokens to their experts and back.

Shapes: N tokens, D d_model, E experts, M assignments.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sublayer.model.experts.routing import Routing
from sublayer.model.precision import at_least_float32


def dispatched(x_ND: Tensor, routing: Routing, n_experts: int, experts: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Σ over a token's assignments of weight · expert(x), [N, D].

    Args:
        x_ND: the tokens.
        routing: their assignments.
        n_experts: how many there are.
        experts: the outputs [M, D] of rows sorted by expert, given how many rows each has.
    """
    order_M = routing.expert_M.argsort(stable=True)
    count_E = routing.expert_M.new_zeros(n_experts).scatter_add(0, routing.expert_M, torch.ones_like(routing.expert_M))
    token_M = routing.token_M[order_M]
    y_MD = experts(x_ND[token_M], count_E)
    weighted_MD = at_least_float32(y_MD) * routing.weight_M[order_M, None]
    y_ND = torch.zeros(x_ND.shape, dtype=weighted_MD.dtype, device=x_ND.device).index_add(0, token_M, weighted_MD)
    return y_ND.to(y_MD.dtype)
