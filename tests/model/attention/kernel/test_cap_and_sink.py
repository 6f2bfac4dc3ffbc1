"""Soft caps and sinks in every kernel: closed forms, and bfloat16 beside float32."""

import pytest
import torch
from torch import Tensor

from sublayer.model.attention.kernel import KERNELS, Attention
from sublayer.model.attention.pattern.base import Causal, Everything
from sublayer.model.layout import Layout, Span

N_HEADS, N_GROUPS, LENGTH, WIDTH = 4, 2, 9, 8


def qkv(dtype: torch.dtype = torch.float64, length: int = LENGTH) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, heads, length, WIDTH) for heads in (N_HEADS, N_GROUPS, N_GROUPS)]
    q, k, v = (2 * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return q.to(dtype), k.to(dtype), v.to(dtype)


def call(length: int = LENGTH, **changes: object) -> Attention:
    layout = Layout().resolved(length, torch.device("cpu"))
    return Attention(Causal(), Span.within(layout, plain=True), WIDTH**-0.5, **changes)


def scores(q: Tensor, k: Tensor) -> Tensor:
    hidden = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    product = q @ k.repeat_interleave(N_HEADS // N_GROUPS, dim=1).transpose(-1, -2) * WIDTH**-0.5
    return product.masked_fill(hidden, float("-inf"))


@pytest.mark.parametrize("name", list(KERNELS))
def test_a_sink_scales_the_output_by_a_sigmoid(name: str) -> None:
    """out·σ(lse − s) equals the softmax with s beside the scores (positions.md, sinks)."""
    q, k, v = qkv()
    sink = torch.tensor([-2.0, 0.0, 1.0, 5.0], dtype=torch.float64)
    plain = KERNELS[name](q, k, v, call()).out_BHTK
    lse_BHT1 = scores(q, k).logsumexp(-1, keepdim=True)
    expected = plain * (lse_BHT1 - sink[:, None, None]).sigmoid()
    torch.testing.assert_close(KERNELS[name](q, k, v, call(sink_H=sink)).out_BHTK, expected)


@pytest.mark.parametrize("name", list(KERNELS))
def test_a_sink_of_zero_is_the_softmax_off_by_one(name: str) -> None:
    q, k, v = qkv()
    exponentials = scores(q, k).exp()
    weights = exponentials / (1 + exponentials.sum(-1, keepdim=True))
    out = KERNELS[name](q, k, v, call(sink_H=torch.zeros(N_HEADS))).out_BHTK
    torch.testing.assert_close(out, weights @ v.repeat_interleave(N_HEADS // N_GROUPS, dim=1))


@pytest.mark.parametrize("name", ["reference", "dense"])
def test_a_high_cap_changes_nothing_and_a_low_one_evens_all_out(name: str) -> None:
    q, k, v = qkv()
    plain = KERNELS[name](q, k, v, call()).out_BHTK
    torch.testing.assert_close(KERNELS[name](q, k, v, call(soft_cap=1e6)).out_BHTK, plain)
    mean = v.repeat_interleave(N_HEADS // N_GROUPS, dim=1).cumsum(2) / torch.arange(1, LENGTH + 1)[:, None]
    torch.testing.assert_close(KERNELS[name](q, k, v, call(soft_cap=1e-9)).out_BHTK, mean)


def test_weights_beside_a_sink_sum_to_less_than_one_and_give_the_output() -> None:
    q, k, v = qkv()
    attended = KERNELS["reference"](q, k, v, call(sink_H=torch.ones(N_HEADS), soft_cap=3.0, want_weights=True))
    weights = attended.weights_BHTS
    assert (weights.sum(-1) < 1).all()
    torch.testing.assert_close(attended.out_BHTK, weights @ v.repeat_interleave(N_HEADS // N_GROUPS, dim=1))


@pytest.mark.parametrize(("name", "cap"), [("sdpa", None), ("dense", None), ("dense", 5.0)])
@pytest.mark.parametrize("length", [1, LENGTH])
@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_is_near_the_reference(name: str, length: int, autocast: bool, cap: float | None) -> None:
    asked = call(length, sink_H=torch.tensor([0.5, -1.0, 2.0, 0.0]), soft_cap=cap)
    q, k, v = qkv(torch.bfloat16, length)
    expected = KERNELS["reference"](q.float(), k.float(), v.float(), asked).out_BHTK
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast), torch.no_grad():
        actual = KERNELS[name](q, k, v, asked).out_BHTK
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual.float(), expected, rtol=2e-2, atol=3e-2)


def test_a_query_that_sees_nothing_gets_zeros_and_the_sink_no_gradient_from_it() -> None:
    q, k, v = (x.requires_grad_() for x in qkv())
    positions = torch.arange(LENGTH)[None]
    span = Span(positions, positions, key_valid=torch.zeros(2, LENGTH, dtype=torch.bool))
    for kernel in KERNELS.values():
        sink = torch.ones(N_HEADS, dtype=torch.float64, requires_grad=True)
        out = kernel(q, k, v, Attention(Everything(), span, 1.0, sink_H=sink)).out_BHTK
        assert (out == 0).all()
        for gradient in torch.autograd.grad(out.sum(), (q, k, v, sink)):
            assert (gradient == 0).all()


@pytest.mark.parametrize("name", KERNELS)
def test_in_float16_too(name: str) -> None:
    """Where the lowest number there is and a score below 0 would make −∞ of each."""
    positions = torch.arange(3)[None]
    span = Span(positions, positions, key_valid=torch.tensor([[False, True, True]]), whole=True)
    q = torch.full((1, 1, 3, 8), 3.0).half()
    out = KERNELS[name](q, -q, torch.ones_like(q), Attention(Causal(), span, 1.0)).out_BHTK
    assert out[0, 0, :, 0].tolist() == [0, 1, 1]
