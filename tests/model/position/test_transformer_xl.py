"""Transformer-XL's encoding against its formula written out, and against transformers' XLNet (Dai et al. 2019)."""

import math

import pytest
import torch
from torch import Tensor
from transformers import XLNetConfig
from transformers.models.xlnet.modeling_xlnet import XLNetModel, XLNetRelativeAttention

from sublayer.errors import ConfigError
from sublayer.model import ModelConfig
from sublayer.model.layout import Layout, Span
from sublayer.model.part import Heads, StackShape
from sublayer.model.position.transformer_xl import TransformerXl, TransformerXlConfig


def encoding(n_heads: int, d_head: int, d_model: int, **options: object) -> TransformerXl:
    shape = StackShape("encoder", d_model, n_layers=1, max_length=64)
    position = TransformerXlConfig(**options).filled(shape).build(shape, Heads(n_heads, d_head))
    for parameter in position.parameters():
        torch.nn.init.normal_(parameter)
    return position


def scores(position: TransformerXl, q: Tensor, k: Tensor, span: Span, scale: float) -> Tensor:
    """As a kernel computes them, for as many key heads as query heads."""
    q, k = position.rotate(q, k, Layout())
    return scale * (q @ k.transpose(-1, -2)) + position.prepare(q, k, span, scale).dense(span)


def test_scores_are_the_paper_s_four_terms() -> None:
    position = encoding(2, 4, 6, theta=100.0).double()
    q, k = torch.randn(2, 5, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    queries, keys = [0, 3, 70, 5, 5], [0, 4, 300]
    found = scores(position, q[None], k[None], Span(torch.tensor([queries]), torch.tensor([keys])), 0.5)
    for h in range(2):
        for t, i in enumerate(queries):
            for s, j in enumerate(keys):
                angles = [(i - j) * 100.0 ** (-2 * f / 6) for f in range(3)]
                wave = torch.tensor([*map(math.sin, angles), *map(math.cos, angles)], dtype=torch.float64)
                projected = position.relative[h] @ wave
                terms = q[h, t] @ k[h, s] + q[h, t] @ projected + position.u[h] @ k[h, s] + position.v[h] @ projected
                assert found[0, h, t, s].item() == pytest.approx(0.5 * terms.item(), rel=1e-9, abs=1e-9)


def test_attention_is_xlnet_s() -> None:
    config = XLNetConfig(vocab_size=7, d_model=12, n_layer=1, n_head=3, d_inner=8, attn_type="bi")
    theirs, ours = XLNetRelativeAttention(config).eval(), encoding(3, 4, 12)
    with torch.no_grad():
        theirs.r_w_bias.copy_(ours.u), theirs.r_r_bias.copy_(ours.v)
        theirs.r.copy_(ours.relative.permute(2, 0, 1))
    q, k, v = torch.randn(3, 2, 3, 9, 4)  # [B, H, T, K]
    waves = XLNetModel(config).relative_positional_encoding(9, 9, bsz=2)
    by_time = [x.permute(2, 0, 1, 3) for x in (q, k, v)]
    expected = theirs.rel_attn_core(*by_time, torch.einsum("ibh,hnd->ibnd", waves, theirs.r)).permute(1, 2, 0, 3)
    positions = torch.arange(9)[None]
    found = scores(ours, q, k, Span(positions, positions), 0.5).softmax(-1) @ v
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_rows_with_positions_of_their_own_have_scores_of_their_own() -> None:
    position = encoding(2, 4, 6)
    q, k = torch.randn(2, 2, 5, 4), torch.randn(2, 2, 3, 4)
    queries, keys = torch.randint(0, 50, (2, 5)), torch.randint(0, 50, (2, 3))
    together = scores(position, q, k, Span(queries, keys), 1.0)
    for row in range(2):
        alone = scores(
            position, q[row : row + 1], k[row : row + 1], Span(queries[row : row + 1], keys[row : row + 1]), 1.0
        )
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-5)


def test_far_offsets_are_as_exact_as_near_ones() -> None:
    """The angles of single positions are taken in float64: in float32 they would be off by 0.004 at 100,000."""
    position = encoding(1, 4, 6)
    q, k = torch.randn(1, 1, 1, 4), torch.randn(1, 1, 1, 4)
    near = scores(position, q, k, Span(torch.tensor([[3]]), torch.tensor([[0]])), 1.0)
    far = scores(position, q, k, Span(torch.tensor([[100_003]]), torch.tensor([[100_000]])), 1.0)
    torch.testing.assert_close(far, near, rtol=0, atol=2e-6)


def test_the_width_is_even() -> None:
    assert TransformerXlConfig().filled(StackShape("decoder", 15, 1, 64)).d_position == 14
    with pytest.raises(ConfigError, match="their width is 5; choose an even d_position"):
        ModelConfig(d_model=16, attention={"n_heads": 2}, position={"kind": "transformer_xl", "d_position": 5})
