"""Contextual positions against equations 3 to 6 written out, and against x-transformers' (Golovneva et al. 2024)."""

import pytest
import torch
from torch import Tensor
from x_transformers.x_transformers import CoPE

from sublayer.errors import ConfigError
from sublayer.model import Layout, ModelConfig, Transformer
from sublayer.model.attention.pattern.base import Pattern, Reach
from sublayer.model.layout import Span
from sublayer.model.part import Heads, StackShape
from sublayer.model.position.cope import Cope, CopeConfig


def cope(n_positions: int, d_head: int) -> Cope:
    position = Cope(CopeConfig(n_positions=n_positions), Heads(2, d_head))
    torch.nn.init.normal_(position.weight)
    return position.double()


def written_out(position: Cope, q: Tensor, k: Tensor, seen: list[list[list[int]]], scale: float) -> Tensor:
    """For each query (row b, place t) the keys that it sees, in order, the last one nearest; 0 for the others."""
    out = torch.zeros(*q.shape[:3], k.shape[2], dtype=q.dtype)
    table, group = position.weight, q.shape[1] // k.shape[1]
    for b, row in enumerate(seen):
        for t, keys in enumerate(row):
            for h in range(q.shape[1]):
                count = torch.tensor(0.0, dtype=q.dtype)
                for s in reversed(keys):
                    count = count + torch.sigmoid(scale * (q[b, h, t] @ k[b, h // group, s]))
                    p = count.clamp(max=len(table) - 1)
                    low, high = int(p.floor()), int(p.ceil())
                    share = p - low
                    out[b, h, t, s] = (1 - share) * (q[b, h, t] @ table[low]) + share * (q[b, h, t] @ table[high])
    return out


@pytest.mark.parametrize("n_positions", [2, 4, 64])
def test_scores_are_the_paper_s_in_any_order_of_keys(n_positions: int) -> None:
    position = cope(n_positions, 4)
    q, k = torch.randn(2, 4, 2, 4, dtype=torch.float64), torch.randn(2, 2, 6, 4, dtype=torch.float64)
    # A ring: keys stand in the order of their slots; the second row's last two are empty.
    span = Span(
        torch.tensor([[4, 5], [2, 3]]),
        torch.tensor([[4, 5, 0, 1, 2, 3], [2, 3, 0, 1, 1, 0]]),
        key_valid=torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]], dtype=torch.bool),
    )
    seen = [[[2, 3, 4, 5, 0], [2, 3, 4, 5, 0, 1]], [[2, 3, 0], [2, 3, 0, 1]]]
    found = position.prepare(q, k, span, 0.7).dense(span)
    expected = written_out(position, q, k, seen, 0.7)
    for b in range(2):
        for t in range(2):
            torch.testing.assert_close(found[b, :, t, seen[b][t]], expected[b, :, t, seen[b][t]])


def test_documents_are_counted_one_by_one() -> None:
    position = cope(8, 4)
    q, k = torch.randn(2, 1, 2, 5, 4, dtype=torch.float64)
    positions, documents = torch.tensor([[0, 1, 0, 1, 2]]), torch.tensor([[0, 0, 1, 1, 1]])
    span = Span(positions, positions, documents, documents)
    seen = [[[0], [0, 1], [2], [2, 3], [2, 3, 4]]]
    found = position.prepare(q, k, span, 1.0).dense(span)
    expected = written_out(position, q, k, seen, 1.0)
    for t, keys in enumerate(seen[0]):
        torch.testing.assert_close(found[0, :, t, keys], expected[0, :, t, keys])


def test_scores_are_x_transformers() -> None:
    position, theirs = cope(6, 4).float(), CoPE(dim=4, heads=2, max_pos=6)
    with torch.no_grad():
        theirs.pos_emb.copy_(position.weight)
    q, k = torch.randn(2, 3, 2, 11, 4)
    visible = torch.ones(11, 11, dtype=torch.bool).tril()
    logits = (0.5 * (q @ k.transpose(-1, -2))).masked_fill(~visible, float("-inf"))
    positions = torch.arange(11)[None]
    span = Span(positions, positions, aligned=True)
    found = position.prepare(q, k, span, 0.5).dense(span)
    torch.testing.assert_close(found[..., visible], theirs(q, logits)[..., visible], rtol=0, atol=1e-5)


def model(**attention: object) -> Transformer:
    config = ModelConfig(
        vocab_size=11,
        d_model=16,
        n_layers=2,
        attention={"n_heads": 4, "n_kv_heads": 2} | attention,
        position={"kind": "cope", "n_positions": 4},
        initialisation={"std": None, "embedding_std": 1.0},
    )
    transformer = Transformer(config).double()
    for position in transformer.positions:
        torch.nn.init.normal_(position.weight)
    return transformer


@pytest.mark.parametrize("pattern", ["full", {"kind": "window", "size": 4}])
def test_decoding_counts_what_a_full_pass_counts(pattern: object) -> None:
    transformer, tokens = model(pattern=pattern), torch.randint(0, 11, (2, 14))
    full = transformer(tokens, Layout()).logits
    state = transformer.init_state(2, 14)
    parts = [transformer(tokens[:, a:b], state=state).logits for a, b in ((0, 3), (3, 4), (4, 9), (9, 10), (10, 14))]
    torch.testing.assert_close(torch.cat(parts, dim=1), full)


def test_at_the_start_there_are_no_positions() -> None:
    config = ModelConfig(vocab_size=7, d_model=16, n_layers=2, attention={"n_heads": 2}, position="cope")
    tokens = torch.randint(0, 7, (1, 9))
    without = Transformer(config.model_copy(update={"position": "none"}))
    torch.testing.assert_close(Transformer(config)(tokens).logits, without(tokens).logits)


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(ConfigError, match="'cope' is not defined for an encoder"):
        ModelConfig(stack="encoder", position="cope")

    class Pinned(Pattern):
        reach = Reach(back=4, pinned=2)

        def visible(self, i: Tensor, j: Tensor) -> Tensor:
            return j <= i

    shape = StackShape("decoder", 16, n_layers=1, max_length=64)
    with pytest.raises(ValueError, match="forgets some of them while it keeps the first ones in view"):
        CopeConfig().check(shape, Heads(2, 4), Pinned())
