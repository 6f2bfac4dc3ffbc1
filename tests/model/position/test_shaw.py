"""Shaw et al. 2018: relative position representations against equations 3 and 4 written out and transformers' own."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import _apply_relative_key_position_encoding

from sublayer.errors import ConfigError
from sublayer.model import Layout, ModelConfig, Transformer
from sublayer.model.attention.kernel import KERNELS, Attention
from sublayer.model.attention.pattern.base import Causal, Everything
from sublayer.model.layout import Span
from sublayer.model.part import Heads, StackShape
from sublayer.model.position.shaw import Shaw, ShawConfig


def shaw(stack: str, n_heads: int, d_head: int, **options: object) -> Shaw:
    shape = StackShape(stack, 16, n_layers=1, max_length=64)  # type: ignore[arg-type]
    position = ShawConfig(**options).filled(shape).build(shape, Heads(n_heads, d_head))
    for parameter in position.parameters():
        torch.nn.init.normal_(parameter)
    return position.double()


def written_out(position: Shaw, q: Tensor, k: Tensor, v: Tensor, span: Span, scale: float, causal: bool) -> Tensor:
    """One query and key at a time, with a vector for each pair."""
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype)
    group, limit = q.shape[1] // k.shape[1], position.offsets.farthest
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            table = h if position.keys.shape[0] > 1 else 0
            for t in range(q.shape[2]):
                scores, values = [], []
                for s in range(k.shape[2]):
                    offset = int(span.query_positions[b, t] - span.key_positions[b, s])
                    if causal and offset < 0:
                        continue
                    row = min(offset, limit) if causal else max(-limit, min(offset, limit)) + limit
                    key, value = k[b, h // group, s] + position.keys[table, row], v[b, h // group, s]
                    scores.append(scale * (q[b, h, t] @ key))
                    values.append(value if position.values is None else value + position.values[table, row])
                if scores:
                    out[b, h, t] = torch.stack(scores).softmax(0) @ torch.stack(values)
    return out


@pytest.mark.parametrize("stack", ["decoder", "encoder"])
@pytest.mark.parametrize("options", [{}, {"by_head": True}, {"to_values": False}, {"by_head": True, "max_distance": 1}])
@pytest.mark.parametrize("kernel", ["reference", "dense"])
def test_attention_with_it_is_the_paper_s_equations(stack: str, options: dict[str, object], kernel: str) -> None:
    position = shaw(stack, 4, 6, **{"max_distance": 3} | options)
    q = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    k, v = torch.randn(2, 2, 2, 7, 6, dtype=torch.float64)
    span = Span(
        torch.tensor([[0, 2, 3, 9, 50], [4, 5, 6, 7, 8]]), torch.tensor([[0, 1, 2, 3, 4, 9, 50], [8, 7, 6, 5, 4, 3, 2]])
    )
    pattern = Causal() if stack == "decoder" else Everything()
    change = position.prepare(q, k, span, 0.3)
    out = KERNELS[kernel](q, k, v, Attention(pattern, span, 0.3, change)).out_BHTK
    torch.testing.assert_close(out, written_out(position, q, k, v, span, 0.3, stack == "decoder"))


def test_scores_are_transformers_relative_key() -> None:
    position = shaw("encoder", 2, 4, max_distance=5, to_values=False).float()
    q, k = torch.randn(2, 3, 2, 12, 4)
    embedding = torch.nn.Embedding(11, 4)
    module = SimpleNamespace(
        left_max_position_embeddings=5, right_max_position_embeddings=5, distance_embedding=embedding, scaling=0.5
    )
    # With distances of the key from the query: the first row of theirs is of the farthest key behind.
    with torch.no_grad():
        embedding.weight.copy_(position.keys[0].flip(0))
    _, expected = _apply_relative_key_position_encoding(module, q, k)
    positions = torch.arange(12)[None]
    span = Span(positions, positions)
    found = position.prepare(q, k, span, 0.5).dense(span)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_no_vector_is_laid_out_for_each_pair() -> None:
    position = shaw("decoder", 1, 64, max_distance=4).float()
    q = torch.randn(1, 1, 512, 64, requires_grad=True)
    positions = torch.arange(512)[None]
    span, held = Span(positions, positions), []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: held.append(x.untyped_storage().nbytes()) or x, lambda x: x
    ):
        change = position.prepare(q, q, span, 1.0)
        out = change.values(change.dense(span).softmax(-1), span)
    assert out.shape == (1, 1, 512, 64)
    assert max(held) <= 8 * 512 * 512, "a table of indices is the largest, not 512·512·64 numbers"


def test_it_is_refused_with_a_kernel_that_cannot_add_to_values() -> None:
    attention = {"n_heads": 2, "kernel": "sdpa"}
    with pytest.raises(ConfigError, match="does not add to values by weight"):
        ModelConfig(d_model=16, attention=attention, position="shaw")
    ModelConfig(d_model=16, attention=attention, position={"kind": "shaw", "to_values": False})


def test_a_ring_that_has_turned_knows_how_far_back_its_keys_lie() -> None:
    config = ModelConfig(
        vocab_size=11,
        d_model=16,
        n_layers=2,
        attention={"n_heads": 2, "pattern": {"kind": "window", "size": 4}},
        position={"kind": "shaw", "max_distance": 2},
        initialisation={"std": None, "embedding_std": 1.0},
    )
    model, tokens = Transformer(config).double(), torch.randint(0, 11, (2, 15))
    state = model.init_state(2, 15)
    steps = torch.cat([model(tokens[:, t : t + 1], state=state).logits for t in range(15)], dim=1)
    torch.testing.assert_close(steps, model(tokens, Layout()).logits)
