"""Every kernel equals attention written out, forward and gradients (in a whole model: statements/kernels.py)."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from sublayer.model import Layout, ModelConfig, Transformer
from sublayer.model.attention.kernel import KERNELS, Attention, attend
from sublayer.model.attention.pattern import Pattern, PatternConfig
from sublayer.model.attention.pattern.base import Causal
from sublayer.model.attention.score import OffsetBias, ScoreChange
from sublayer.model.layout import Span
from tests.properties.composition import (
    FEW_AND_MANY,
    examine,
    gradients,
    parts,
    random_tokens,
)
from tests.properties.statements.kernels import with_kernel


@dataclass
class Case:
    """Random queries, keys and values, and where they stand."""

    q: Tensor
    k: Tensor
    v: Tensor
    call: Attention
    blind: Tensor
    """[B, T]: the queries that see no key."""

    def inputs(self) -> list[Tensor]:
        """What gets a gradient."""
        sink = [] if self.call.sink_H is None else [self.call.sink_H]
        return [self.q, self.k, self.v, *sink]


def brute_force(case: Case) -> Tensor:
    """softmax(c·tanh(scale·qk/c) + bias) v, one query and one key at a time, without a mask.

    A sink is one more key, whose value is 0; what a change adds to values is added to each value by itself.
    """
    call, span, pattern = case.call, case.call.span, case.call.pattern
    change, cap, sink_H = call.score_change, call.soft_cap, call.sink_H
    n_rows, n_heads, n_queries, _ = case.q.shape
    in_graph = 0 * sum(x.sum() for x in case.inputs())  # seen or not
    out = case.v.new_zeros(n_rows, n_heads, n_queries, case.v.shape[-1]) + in_graph
    group = n_heads // case.k.shape[1]
    bias = None if change is None else change.dense(span)
    added = change.added if isinstance(change, ValueBias) else None
    for b in range(n_rows):
        for i in range(n_queries):
            seen = [j for j in range(case.k.shape[2]) if _sees(pattern, span, b, i, j)]
            for h in range(n_heads):
                if not seen:
                    continue
                keys, values = case.k[b, h // group, seen], case.v[b, h // group, seen]
                scores = keys @ case.q[b, h, i] * call.scale
                scores = scores if cap is None else cap * (scores / cap).tanh()
                if bias is not None:
                    scores = scores + bias[b % bias.shape[0], h, i, seen]
                if added is not None:
                    values = values + added[b, h, i, seen].to(values.dtype)
                if sink_H is not None:
                    scores = torch.cat([scores, sink_H[h, None].to(scores.dtype)])
                    values = torch.cat([values, torch.zeros_like(values[:1])])
                out[b, h, i] = scores.softmax(0) @ values
    return out


def _sees(pattern: Pattern, span: Span, b: int, i: int, j: int) -> bool:
    if span.key_valid is not None and not span.key_valid[b, j]:
        return False
    if span.query_document is not None and span.query_document[b, i] != span.key_document[b, j]:
        return False
    return bool(pattern.visible(span.query_positions[b, i], span.key_positions[b, j]))


class RowBias(ScoreChange):
    """A change that is neither by offset nor the same for all rows."""

    def __init__(self, bias: Tensor) -> None:
        self.bias = bias

    def dense(self, span: Span) -> Tensor:
        return self.bias


class ValueBias(RowBias):
    """One that adds to the output as well: [B, H, T, S, K], by weight."""

    changes_values = True

    def __init__(self, bias: Tensor, added: Tensor) -> None:
        super().__init__(bias)
        self.added = added

    def values(self, weights_BHTS: Tensor, span: Span) -> Tensor:
        return torch.einsum("bhts,bhtsk->bhtk", weights_BHTS, self.added.to(weights_BHTS.dtype))


@st.composite
def cases(draw: st.DrawFn, dtype: torch.dtype) -> Case:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    n_rows, n_groups, group = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    n_queries, width = draw(st.integers(1, 6)), draw(st.sampled_from([1, 2, 8]))
    value_width = draw(st.sampled_from([width, width, 3, 12]))
    direction = draw(st.sampled_from(["causal", "bidirectional"]))
    aligned = draw(st.booleans())
    n_keys = n_queries if aligned else draw(st.integers(1, 7))
    chosen = draw(parts(PatternConfig.registry))

    def randint(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=generator)

    query_positions = randint(8, n_rows, n_queries)
    key_positions = randint(8, n_rows, n_keys)
    query_document = key_document = key_valid = None
    if aligned:
        query_positions = key_positions = torch.arange(n_queries).expand(n_rows, -1)
    elif draw(st.booleans()):
        query_document, key_document = randint(3, n_rows, n_queries), randint(3, n_rows, n_keys)
    if not aligned and draw(st.booleans()):
        key_valid = randint(2, n_rows, n_keys).bool()
    span = Span(query_positions, key_positions, query_document, key_document, key_valid, aligned=aligned)

    n_heads = n_groups * group
    change: ScoreChange | None = draw(
        st.sampled_from(
            [
                None,
                OffsetBias(
                    "test", lambda offsets: -0.3 * torch.arange(n_heads)[:, None, None] * offsets[:, None].abs()
                ),
                RowBias(torch.randn(n_rows, n_heads, n_queries, n_keys, generator=generator)),
                ValueBias(
                    torch.randn(n_rows, n_heads, n_queries, n_keys, generator=generator),
                    torch.randn(n_rows, n_heads, n_queries, n_keys, value_width, generator=generator),
                ),
            ]
        )
    )

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()

    q = randn(n_rows, n_heads, n_queries, width)
    k, v = randn(n_rows, n_groups, n_keys, width), randn(n_rows, n_groups, n_keys, value_width)
    call = Attention(
        chosen.pattern(direction),
        span,
        scale=width**-0.5,
        score_change=change,
        soft_cap=draw(st.sampled_from([None, None, 0.7, 5.0])),
        sink_H=randn(n_heads) if draw(st.booleans()) else None,
    )
    visible = span.visible(call.pattern)
    blind = torch.zeros(n_rows, n_queries, dtype=torch.bool)
    if visible is not None:
        blind = ~visible.expand(n_rows, 1, n_queries, n_keys)[:, 0].any(-1)
    return Case(q, k, v, call, blind)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", list(KERNELS))
@pytest.mark.parametrize("times", FEW_AND_MANY)
def test_a_kernel_equals_attention_written_out_query_by_query(name: str, dtype: torch.dtype, times: int) -> None:
    tolerance = 2e-5 if dtype == torch.float32 else 1e-6  # score changes are in float32

    def check(case: Case) -> None:
        kernel = KERNELS[name]
        if kernel.refuses(case.call) is not None:
            return
        out, expected = kernel(case.q, case.k, case.v, case.call).out_BHTK, brute_force(case)
        assert out.dtype == dtype
        torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)
        assert (out.transpose(1, 2)[case.blind] == 0).all(), "a query that sees nothing gets zeros"

        cotangent = torch.randn(out.shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
        actual = torch.autograd.grad(out, case.inputs(), cotangent)
        wanted = torch.autograd.grad(expected, case.inputs(), cotangent)
        for side, one, other in zip(["q", "k", "v", "sink"], actual, wanted, strict=False):
            assert one.isfinite().all(), f"the gradient of {side}"
            torch.testing.assert_close(one, other, rtol=tolerance * 10, atol=tolerance * 10)

    examine(check, 60 * times, fixed=times == 1, case=cases(dtype))


def test_a_model_in_which_a_query_sees_nothing_has_finite_gradients() -> None:
    config = ModelConfig(
        vocab_size=11, d_model=8, n_layers=2, attention={"n_heads": 2, "pattern": {"kind": "window", "size": 2}}
    )
    # The second row is padding throughout; in the third, a lone document's window holds nothing but padding.
    layout = Layout(valid_BT=torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.bool))
    for kernel in KERNELS:
        model = Transformer(with_kernel(config, kernel))
        loss = model(random_tokens(1, 3, 4), layout, targets=random_tokens(2, 3, 4)).loss
        assert loss.isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients(model, loss).values())


@pytest.mark.parametrize("kernel", ["auto", "sdpa", "dense"])
@pytest.mark.parametrize("n_keys", [5, 700])
@pytest.mark.parametrize("n_kv_heads", [1, 2, 8])
@pytest.mark.parametrize("change", [False, True])
def test_a_decoding_step_in_bfloat16(kernel: str, n_keys: int, n_kv_heads: int, change: bool) -> None:
    """One query over a cache, which has ways of its own on a CPU."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(8, 8, 1, 64, generator=generator).bfloat16()
    k, v = (torch.randn(8, n_kv_heads, n_keys, 64, generator=generator).bfloat16() for _ in range(2))
    keys = torch.arange(n_keys)[None]
    held = keys < torch.randint(1, n_keys + 1, (8, 1), generator=generator)
    span = Span(torch.full((8, 1), n_keys), keys.expand(8, -1), key_valid=held, whole=True)
    bias = OffsetBias("test", lambda offsets: -0.01 * offsets[..., None, :, :].float()) if change else None
    call = Attention(Causal(), span, 64**-0.5, bias)
    with torch.no_grad():
        expected = KERNELS["reference"](q, k, v, call).out_BHTK
        actual = attend(q, k, v, call, kernel).out_BHTK  # type: ignore[arg-type]
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual, expected, rtol=2e-2, atol=2e-2)
