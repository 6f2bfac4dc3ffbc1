"""T5's relative bias against transformers' own, at every distance (Raffel et al. 2020, section 2.1)."""

from typing import Any

import pytest
import torch
from transformers import T5Config as TheirConfig
from transformers.models.t5.modeling_t5 import T5Attention

from sublayer.errors import ConfigError
from sublayer.model import Layout, ModelConfig, Transformer
from sublayer.model.layout import Span
from sublayer.model.part import StackShape
from sublayer.model.position.t5 import T5, T5Config


def t5(stack: Any, n_heads: int = 4, **options: object) -> T5:
    shape = StackShape(stack, 16, n_layers=2, max_length=64)
    position = T5(T5Config(**options).filled(shape), shape, n_heads)
    torch.nn.init.normal_(position.weight)
    return position


@pytest.mark.parametrize("stack", ["decoder", "encoder"])
@pytest.mark.parametrize(("n_buckets", "max_distance"), [(32, 128), (32, 500), (8, 20), (64, 1000), (10, 17)])
def test_every_offset_has_transformers_bucket(stack: str, n_buckets: int, max_distance: int) -> None:
    offsets = torch.arange(-2000, 2001)
    expected = T5Attention._relative_position_bucket(
        -offsets, bidirectional=stack == "encoder", num_buckets=n_buckets, max_distance=max_distance
    )
    assert torch.equal(t5(stack, n_buckets=n_buckets, max_distance=max_distance).buckets(offsets), expected)


def test_a_one_sided_table_in_an_encoder_puts_all_that_is_ahead_into_one_bucket() -> None:
    offsets = torch.arange(-200, 201)
    expected = T5Attention._relative_position_bucket(-offsets, bidirectional=False)
    assert torch.equal(t5("encoder", bidirectional=False).buckets(offsets), expected)
    assert (expected[:200] == 0).all()


def test_where_the_buckets_begin() -> None:
    """The last begins before max_distance, at 113 or, with two directions, at 91; and bucket 16 is of no offset."""
    causal = t5("decoder").buckets(torch.arange(0, 300))
    assert causal[:16].tolist() == list(range(16))
    assert (causal == 31).nonzero()[0].item() == 113
    both = t5("encoder").buckets(torch.arange(-300, 301))
    assert (both[300:] == 15).nonzero()[0].item() == 91
    assert (both[:301].flip(0) == 31).nonzero()[0].item() == 91
    assert set(both.tolist()) == set(range(32)) - {16}


@pytest.mark.parametrize("stack", ["decoder", "encoder"])
def test_the_bias_is_transformers(stack: str) -> None:
    their_config = TheirConfig(d_model=16, num_heads=4, d_kv=4, is_decoder=stack == "decoder")
    theirs = T5Attention(their_config, has_relative_attention_bias=True)
    ours = t5(stack)
    with torch.no_grad():
        theirs.relative_attention_bias.weight.copy_(ours.weight)
    positions = torch.arange(150)[None]
    span = Span(positions, positions)
    bias = ours.prepare(torch.zeros(0), torch.zeros(0), span, 1.0).dense(span)
    assert bias.shape == (1, 4, 150, 150)
    torch.testing.assert_close(bias, theirs.compute_bias(150, 150), rtol=0, atol=0)


def test_rows_with_positions_of_their_own_have_biases_of_their_own() -> None:
    ours = t5("encoder")
    queries, keys = torch.tensor([[0, 4], [3, 3]]), torch.tensor([[0, 1, 9], [200, 3, 0]])
    span = Span(queries, keys)
    bias = ours.prepare(torch.zeros(0), torch.zeros(0), span, 1.0).dense(span)
    for b in range(2):
        for t in range(2):
            for s in range(3):
                bucket = ours.buckets(queries[b, t] - keys[b, s])
                assert torch.equal(bias[b, :, t, s], ours.weight[bucket])


def config(stack: str = "decoder", **changes: object) -> ModelConfig:
    values: dict[str, object] = {
        "stack": stack,
        "vocab_size": 7,
        "d_model": 16,
        "n_layers": 3,
        "attention": {"n_heads": 2},
        "position": "t5",
    }
    return ModelConfig(**values | changes)


def test_all_layers_share_one_table_and_its_bias_is_made_once_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Transformer(config())
    assert [name for name, _ in model.named_parameters() if "positions" in name] == ["positions.0.weight"]
    made = []
    whole = T5._bias
    monkeypatch.setattr(T5, "_bias", lambda self, offsets: made.append(1) or whole(self, offsets))
    model(torch.zeros(2, 5, dtype=torch.int64))
    model(torch.zeros(2, 5, dtype=torch.int64), Layout(document_BT=torch.tensor([[0, 0, 1, 1, 1]] * 2)))
    assert len(made) == 2


def test_the_table_starts_as_in_t5_s_own_code() -> None:
    weight = (
        Transformer(config(d_model=64, attention={"n_heads": 64}, position={"kind": "t5", "n_buckets": 64}))
        .positions[0]
        .weight
    )
    assert weight.std().item() == pytest.approx(64**-0.5, rel=0.05)


@pytest.mark.parametrize(
    ("stack", "options", "sentence"),
    [
        ("decoder", {"bidirectional": True}, "a causal stack sees none; set bidirectional: false"),
        ("decoder", {"n_buckets": 1}, r"n_buckets \(1\) must be at least 2\."),
        ("encoder", {"n_buckets": 3}, r"n_buckets \(3\) must be at least 4 and be even\."),
        ("encoder", {"n_buckets": 7}, "be even"),
        ("decoder", {"max_distance": 16}, r"max_distance \(16\) must be beyond the 16 distances"),
        ("encoder", {"max_distance": 8}, r"max_distance \(8\) must be beyond the 8 distances"),
    ],
)
def test_what_is_refused(stack: str, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        config(stack, position={"kind": "t5"} | options)
