"""Tokens to experts and back, beside a sum written out."""

import pytest
import torch
from torch import Tensor

from sublayer.model.experts.dispatch import Order, dispatched
from sublayer.model.experts.routing import Routing

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
N, D, E = 37, 12, 5


def routing(top_k: int | None, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Routing:
    """Of as many experts for each token, or of any number, in any order."""
    generator = torch.Generator().manual_seed(0)
    score = torch.rand(N, E, generator=generator)
    if top_k is None:
        token, expert = (score > 0.6).nonzero(as_tuple=True)
        order = torch.randperm(len(token), generator=generator)
        token, expert = token[order].to(device), expert[order].to(device)
        return Routing(token, expert, torch.rand(len(token), generator=generator).to(device, dtype).requires_grad_())
    weight = torch.rand(N, top_k, generator=generator)
    weight = weight.to(device, dtype).requires_grad_()
    return Routing.by_token(score.topk(top_k).indices.to(device), weight)


def reference(x: Tensor, decided: Routing, matrices: Tensor) -> Tensor:
    """Assignment by assignment."""
    y = torch.zeros_like(x, dtype=decided.weight_M.dtype)
    for number, (token, expert) in enumerate(zip(decided.token_M.tolist(), decided.expert_M.tolist(), strict=True)):
        part = (x[token] @ matrices[expert].T).to(y.dtype) * decided.weight_M[number]
        y = y.index_add(0, torch.tensor([token], device=x.device), part[None])
    return y.to(x.dtype)


def experts(matrices: Tensor) -> object:
    return lambda x, count: torch.cat([a @ m.T for a, m in zip(x.split(count.tolist()), matrices, strict=True)])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("top_k", [1, 2, 5, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_is_the_weighted_sum_forward_and_backward(dtype: torch.dtype, top_k: int | None, device: str) -> None:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(1)).to(device, dtype).requires_grad_()
    matrices = torch.randn(E, D, D, generator=torch.Generator().manual_seed(2)).to(device, dtype).requires_grad_()
    decided = routing(top_k, wide, device)
    towards = torch.randn(N, D, generator=torch.Generator().manual_seed(3)).to(device, dtype)
    found = [
        [y, *torch.autograd.grad(y, (x, matrices, decided.weight_M), towards, retain_graph=True)]
        for y in (dispatched(x, decided, E, experts(matrices)), reference(x, decided, matrices))
    ]
    with torch.no_grad():
        torch.testing.assert_close(dispatched(x, decided, E, experts(matrices)), found[0][0])
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype
        tolerance = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 3e-2}[dtype]
        torch.testing.assert_close(one, other, rtol=0.0, atol=tolerance * other.abs().max().item())


@pytest.mark.parametrize("top_k", [2, None])
def test_weights_are_applied_and_added_in_float32(top_k: int | None) -> None:
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(1)).bfloat16()
    decided = routing(top_k)
    y = dispatched(x, decided, E, lambda rows, _: rows)
    total = torch.zeros(N).index_add(0, decided.token_M, decided.weight_M)
    # Rounded once, at the end; twice the same rows with weights of their own add up without an error of bfloat16.
    torch.testing.assert_close(y.float(), x.float() * total[:, None], rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("top_k", [2, None])
def test_no_token_and_no_assignment(top_k: int | None) -> None:
    x = torch.randn(3 if top_k is None else 0, D, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    y = dispatched(x, Routing(none, none, torch.zeros(0, requires_grad=True), top_k), E, lambda rows, _: rows * 2)
    y.sum().backward()
    assert y.shape == x.shape and not y.any()
    assert x.grad is not None and not x.grad.any()


@pytest.mark.parametrize("top_k", [2, None])
def test_twice_the_same_is_bit_for_bit_the_same(top_k: int | None) -> None:
    def once() -> list[Tensor]:
        x = torch.randn(N, D, generator=torch.Generator().manual_seed(1)).requires_grad_()
        decided = routing(top_k)
        y = dispatched(x, decided, E, lambda rows, _: rows.tanh())
        return [y, *torch.autograd.grad(y.square().sum(), (x, decided.weight_M))]

    assert all(torch.equal(*pair) for pair in zip(once(), once(), strict=True))


@pytest.mark.parametrize("top_k", [2, None])
def test_the_operations_are_registered_as_torch_wants_them(top_k: int | None) -> None:
    decided = routing(top_k)
    token, expert, weight = decided.token_M, decided.expert_M, decided.weight_M.detach().requires_grad_()
    by_token = token.argsort(stable=True)
    order = Order.of(token[by_token], expert[by_token], N, E, top_k)
    x, places = torch.randn(N, D, requires_grad=True), (order.place_M, order.begin_N)
    y = torch.randn(len(token), D, requires_grad=True)
    ops = torch.ops.sublayer
    torch.library.opcheck(ops.gather_rows.default, (x, order.token_M, *places))
    torch.library.opcheck(ops.sum_rows.default, (y.detach(), *places))
    torch.library.opcheck(ops.combine_rows.default, (y, weight, order.token_M, *places, order.top_k))
    arguments = (x.detach(), y.detach(), weight.detach(), order.token_M, order.place_M, order.top_k)
    torch.library.opcheck(ops.combine_rows_backward.default, arguments)
