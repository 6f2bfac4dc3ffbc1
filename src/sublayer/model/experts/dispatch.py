"""Tokens to their experts and back.

Shapes: N tokens, D d_model, E experts, M assignments of a token to an expert, K of each token.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sublayer.model.experts.bank import Bank
from sublayer.model.experts.fused import summed_rows
from sublayer.model.experts.routing import Routing


@dataclass(frozen=True)
class Order:
    """The same assignments by expert and by token.

    Attributes:
        token_M: the token of each, sorted by expert.
        place_M: where each stands there, sorted by token.
        begin_N: where the assignments of each token begin in `place_M`.
        top_k: how many each token has, when all have as many; else 0.
        count_E: how many are each expert's.
    """

    token_M: Tensor
    place_M: Tensor
    begin_N: Tensor
    top_k: int
    count_E: Tensor

    @classmethod
    def of(cls, token_M: Tensor, expert_M: Tensor, n_tokens: int, n_experts: int, top_k: int | None) -> "Order":
        """Of assignments sorted by token."""
        order_M = expert_M.argsort(stable=True)
        number_M = torch.arange(len(order_M), device=order_M.device)
        place_M = torch.empty_like(order_M).scatter_(0, order_M, number_M)
        if top_k is None:
            each_N = _counted(token_M, n_tokens)
            begin_N = each_N.cumsum(0) - each_N
        else:
            begin_N = torch.arange(0, n_tokens * top_k, top_k, device=order_M.device)
        return cls(token_M[order_M], place_M, begin_N, top_k or 0, _counted(expert_M, n_experts))


def dispatched(x_ND: Tensor, routing: Routing, n_experts: int, experts: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Σ over a token's assignments of weight · expert(x), [N, D].

    Args:
        x_ND: the tokens.
        routing: their assignments.
        n_experts: how many there are.
        experts: the outputs [M, D] of rows sorted by expert, given how many rows each has.
    """
    if len(x_ND) == 1 and not torch.is_grad_enabled():
        return _of_one(x_ND, routing, n_experts, experts)
    token_M, expert_M, weight_M = routing.token_M, routing.expert_M, routing.weight_M
    if routing.top_k is None:
        by_token_M = token_M.argsort(stable=True)
        token_M, expert_M, weight_M = token_M[by_token_M], expert_M[by_token_M], weight_M[by_token_M]
    order = Order.of(token_M, expert_M, len(x_ND), n_experts, routing.top_k)
    if not torch.is_grad_enabled():
        # The same without what an operation of its own costs, which counts in a decoding step.
        y_MD = experts(x_ND.index_select(0, order.token_M), order.count_E)
        return _weighted(y_MD, weight_M, order.place_M, order.begin_N, order.top_k)
    if isinstance(experts, Bank) and experts.fuses(x_ND):
        return experts.fused(x_ND, weight_M, order.token_M, order.place_M, order.begin_N, order.count_E)
    x_MD: Tensor = _gather(x_ND, order.token_M, order.place_M, order.begin_N)
    y_MD = experts(x_MD, order.count_E)
    y_ND: Tensor = _combine(y_MD, weight_M, order.token_M, order.place_M, order.begin_N, order.top_k)
    return y_ND


def _of_one(x_1D: Tensor, routing: Routing, n_experts: int, experts: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Of a single token, as in a decoding step, with as few operations as that takes."""
    order_M = routing.expert_M.argsort()
    y_MD = experts(x_1D.expand(len(order_M), -1), _counted(routing.expert_M, n_experts))
    weight_1M = routing.weight_M.index_select(0, order_M)[None]
    return (weight_1M @ y_MD.to(weight_1M.dtype)).to(y_MD.dtype)


def _counted(number_M: Tensor, n: int) -> Tensor:
    return number_M.new_zeros(n).scatter_add(0, number_M, torch.ones_like(number_M))


# PyTorch's own backward of taking rows adds them up one by one, slowly on a CPU and in any order on a GPU.  Since it is
# known where each token's rows stand, here both directions are sums over a token's rows, in a fixed order.


@torch.library.custom_op("sublayer::gather_rows", mutates_args=())
def _gather(x_ND: Tensor, token_M: Tensor, place_M: Tensor, begin_N: Tensor) -> Tensor:
    return x_ND.index_select(0, token_M)


@_gather.register_fake
def _(x_ND: Tensor, token_M: Tensor, place_M: Tensor, begin_N: Tensor) -> Tensor:
    return x_ND.new_empty(token_M.shape[0], x_ND.shape[1])


@torch.library.custom_op("sublayer::sum_rows", mutates_args=())
def _sum(y_MD: Tensor, place_M: Tensor, begin_N: Tensor) -> Tensor:
    """Σ over each token's rows, added in float32 at least."""
    return summed_rows(y_MD, place_M, begin_N)


@_sum.register_fake
def _(y_MD: Tensor, place_M: Tensor, begin_N: Tensor) -> Tensor:
    return y_MD.new_empty(begin_N.shape[0], y_MD.shape[1])


def _keep_places(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[2:])


def _gather_backward(ctx: Any, gradient_MD: Tensor) -> tuple[Tensor, None, None, None]:
    return _sum(gradient_MD.contiguous(), *ctx.saved_tensors), None, None, None


_gather.register_autograd(_gather_backward, setup_context=_keep_places)


def _weighted(y_MD: Tensor, weight_M: Tensor, place_M: Tensor, begin_N: Tensor, top_k: int) -> Tensor:
    """Σ over each token's rows of weight · row, in the dtype of the weights."""
    if not top_k:
        return summed_rows(y_MD.to(weight_M.dtype), place_M, begin_N, weight_M).to(y_MD.dtype)
    places, weights = place_M.view(-1, top_k).unbind(1), weight_M.view(-1, top_k, 1).unbind(1)
    y_ND = y_MD.index_select(0, places[0]).to(weight_M.dtype).mul_(weights[0])
    for place_N, weight_N in zip(places[1:], weights[1:], strict=True):
        y_ND.addcmul_(y_MD.index_select(0, place_N).to(y_ND.dtype), weight_N)
    return y_ND.to(y_MD.dtype)


@torch.library.custom_op("sublayer::combine_rows", mutates_args=())
def _combine(y_MD: Tensor, weight_M: Tensor, token_M: Tensor, place_M: Tensor, begin_N: Tensor, top_k: int) -> Tensor:
    return _weighted(y_MD, weight_M, place_M, begin_N, top_k)


@_combine.register_fake
def _(y_MD: Tensor, weight_M: Tensor, token_M: Tensor, place_M: Tensor, begin_N: Tensor, top_k: int) -> Tensor:
    return y_MD.new_empty(begin_N.shape[0], y_MD.shape[1])


@torch.library.custom_op("sublayer::combine_rows_backward", mutates_args=())
def _separate(
    gradient_ND: Tensor, y_MD: Tensor, weight_M: Tensor, token_M: Tensor, place_M: Tensor, top_k: int
) -> tuple[Tensor, Tensor]:
    """The gradients of the rows and of their weights."""
    gradient_ND = gradient_ND.to(weight_M.dtype)
    if not top_k:
        of_M = gradient_ND.index_select(0, token_M)
        by_place_M = torch.empty_like(weight_M).index_copy_(0, place_M, weight_M)
        of_weight_M = torch.linalg.vecdot(of_M, y_MD.to(of_M.dtype)).index_select(0, place_M)
        return of_M.mul_(by_place_M[:, None]).to(y_MD.dtype), of_weight_M
    of_y_MD, of_weight_M = torch.empty_like(y_MD), torch.empty_like(weight_M)
    of_weight_NK, weight_NK = of_weight_M.view(-1, top_k), weight_M.view(-1, top_k)
    for number, place_N in enumerate(place_M.view(-1, top_k).unbind(1)):
        row_ND = y_MD.index_select(0, place_N).to(gradient_ND.dtype)
        of_weight_NK[:, number] = torch.linalg.vecdot(gradient_ND, row_ND)
        torch.mul(gradient_ND, weight_NK[:, number, None], out=row_ND)
        of_y_MD.index_copy_(0, place_N, row_ND.to(y_MD.dtype))
    return of_y_MD, of_weight_M


@_separate.register_fake
def _(
    gradient_ND: Tensor, y_MD: Tensor, weight_M: Tensor, token_M: Tensor, place_M: Tensor, top_k: int
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(y_MD), torch.empty_like(weight_M)


def _keep_all(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, int], output: Tensor) -> None:
    y_MD, weight_M, token_M, place_M, _, ctx.top_k = inputs
    ctx.save_for_backward(y_MD, weight_M, token_M, place_M)


def _combine_backward(ctx: Any, gradient_ND: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
    return *_separate(gradient_ND.contiguous(), *ctx.saved_tensors, ctx.top_k), None, None, None, None


_combine.register_autograd(_combine_backward, setup_context=_keep_all)
