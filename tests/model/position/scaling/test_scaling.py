"""Scalings against transformers' own, and against figures worked out by hand."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from sublayer.errors import ConfigError
from sublayer.model import Layout, ModelConfig, Transformer
from sublayer.model.position.rope import Rope, RopeConfig


def rope(d_head: int, max_length: int, **options: object) -> Rope:
    config = ModelConfig(
        d_model=2 * d_head,
        n_layers=1,
        max_length=max_length,
        attention={"n_heads": 2},
        position={"kind": "rope"} | options,
    )
    position = config.resolve()[0].position
    assert isinstance(position, RopeConfig)
    return Rope(position, d_head)


def frequencies(position: Rope, length: int | None = None) -> Tensor:
    """[F], of a text of some length."""
    config, even = position.config, torch.arange(0, position.width, 2)
    lengths = None if length is None else torch.tensor([[length]])
    base = config.theta ** (-even.float() / position.width)
    return config.scaling.frequencies(base, config.theta, lengths).flatten()


LONG, SHORT = [1.0 + 0.9 * i for i in range(16)], [1.0 + 0.1 * i for i in range(16)]

CASES: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    # name in transformers, its parameters, ours, our options
    ("linear", {"factor": 4.0}, "linear", {"factor": 4}),
    ("linear", {"factor": 1.0}, "linear", {"factor": 1}),
    *(
        ("yarn", theirs | {"factor": factor, "original_max_position_embeddings": 2048 // 2**n}, "yarn", ours)
        for n, (factor, theirs, ours) in enumerate(
            [
                (4.0, {}, {"factor": 4.0, "original_length": 2048}),
                (16.0, {"beta_fast": 20.0, "beta_slow": 2.0}, {"factor": 16, "beta_fast": 20, "beta_slow": 2}),
                (
                    40.0,
                    {"mscale": 0.707, "mscale_all_dim": 1.2},
                    {"factor": 40, "mscale": 0.707, "mscale_all_dim": 1.2},
                ),
                (8.0, {"attention_factor": 1.5}, {"factor": 8, "attention_factor": 1.5}),
                (32.0, {"truncate": False}, {"factor": 32, "truncate": False}),
            ]
        )
        for ours in [{"original_length": 2048 // 2**n} | ours]
    ),
    *(
        (
            "llama3",
            {
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": length,
            },
            "llama3",
            {"factor": factor, "low_freq_factor": low, "high_freq_factor": high, "original_length": length},
        )
        for factor, low, high, length in [(8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 256), (2.0, 0.5, 16.0, 1000)]
    ),
    ("proportional", {"partial_rotary_factor": 0.25}, "proportional", {"share": 0.25}),
    ("proportional", {"partial_rotary_factor": 0.7, "factor": 8.0}, "proportional", {"share": 0.7, "factor": 8}),
    ("proportional", {"partial_rotary_factor": 1.0}, "proportional", {"share": 1}),
]


@pytest.mark.parametrize("theta", [10000.0, 500_000.0])
@pytest.mark.parametrize(("kind", "parameters", "ours", "options"), CASES)
def test_equals_transformers(
    kind: str, parameters: dict[str, Any], ours: str, options: dict[str, Any], theta: float
) -> None:
    config = LlamaConfig(
        hidden_size=64,
        num_attention_heads=2,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": kind, "rope_theta": theta} | parameters,
    )
    expected, amplitude = ROPE_INIT_FUNCTIONS[kind](config)
    position = rope(32, 8192, theta=theta, scaling={"kind": ours} | options)
    torch.testing.assert_close(frequencies(position), expected, rtol=1e-6, atol=1e-9)
    assert position.config.scaling.amplitude == pytest.approx(amplitude, rel=1e-9)


@pytest.mark.parametrize("length", [1, 99, 100, 101, 250, 1000])
@pytest.mark.parametrize("factor", [1.0, 2.0, 4.0])
def test_dynamic_ntk_equals_transformers_at_every_length(length: int, factor: float) -> None:
    config = LlamaConfig(
        hidden_size=64,
        num_attention_heads=2,
        max_position_embeddings=100,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": factor},
    )
    expected, _ = ROPE_INIT_FUNCTIONS["dynamic"](config, seq_len=length)
    position = rope(32, 100, scaling={"kind": "dynamic_ntk", "factor": factor})
    torch.testing.assert_close(frequencies(position, length), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("length", [1, 64, 65, 256])
@pytest.mark.parametrize("attention_factor", [None, 1.25])
def test_longrope_equals_transformers_at_every_length(length: int, attention_factor: float | None) -> None:
    given = {} if attention_factor is None else {"attention_factor": attention_factor}
    parameters = {"short_factor": SHORT, "long_factor": LONG, "factor": 4.0, "original_max_position_embeddings": 64}
    config = LlamaConfig(
        hidden_size=64,
        num_attention_heads=2,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0} | parameters | given,
    )
    expected, amplitude = ROPE_INIT_FUNCTIONS["longrope"](config, seq_len=length)
    ours = {"kind": "longrope", "short_factor": SHORT, "long_factor": LONG, "original_length": 64}
    position = rope(32, 256, scaling=ours | given)
    torch.testing.assert_close(frequencies(position, length), expected, rtol=1e-6, atol=1e-9)
    assert position.config.scaling.amplitude == pytest.approx(amplitude, rel=1e-9)


def test_ntk_is_a_larger_theta_and_turns_the_slowest_pair_as_if_interpolated() -> None:
    width, factor = 32, 8.0
    scaled = frequencies(rope(width, 64, scaling={"kind": "ntk", "factor": factor}))
    theta = 10000.0 * factor ** (width / (width - 2))
    expected = theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    torch.testing.assert_close(scaled.double(), expected, rtol=1e-5, atol=0)
    plain = frequencies(rope(width, 64))
    assert scaled[0] == plain[0]
    assert scaled[-1].item() == pytest.approx(plain[-1].item() / factor, rel=1e-5)


def test_llama_3_keeps_29_pairs_blends_6_and_divides_29() -> None:
    """At θ = 5e5, d = 128 and L₀ = 8192, as Llama 3.1 has them."""
    plain = frequencies(rope(128, 131072, theta=5e5))
    scaled = frequencies(rope(128, 131072, theta=5e5, scaling={"kind": "llama3", "factor": 8, "original_length": 8192}))
    kept, divided = scaled == plain, torch.isclose(scaled, plain / 8, rtol=1e-6, atol=0)
    assert kept.sum() == 29
    assert divided.sum() == 29
    blended = ~kept & ~divided
    assert blended.sum() == 6
    assert kept[:29].all() and divided[35:].all()
    assert ((scaled < plain) & (scaled > plain / 8))[blended].all()


def test_yarn_multiplies_cosine_and_sine_so_that_scores_grow_by_the_square() -> None:
    position = rope(16, 4096, scaling={"kind": "yarn", "factor": 16})
    assert position.config.scaling.amplitude == pytest.approx(0.1 * math.log(16) + 1)
    assert position.config.scaling.amplitude == pytest.approx(1.277, abs=5e-4)
    q, k = torch.randn(2, 1, 1, 1, 16)
    turned_q, turned_k = position.rotate(q, k, Layout(positions_BT=torch.tensor([[7]])))
    ratio = float((turned_q * turned_k).sum() / (q * k).sum())
    assert ratio == pytest.approx(1.631, abs=1e-3)


def test_an_amplitude_is_on_the_rotated_features_alone() -> None:
    position = rope(16, 4096, fraction=0.5, scaling={"kind": "yarn", "factor": 16})
    q = torch.randn(1, 1, 3, 16)
    turned, _ = position.rotate(q, q, Layout(positions_BT=torch.tensor([[0, 5, 900]])))
    assert torch.equal(turned[..., 8:], q[..., 8:])
    grown = turned[..., :8].norm(dim=-1) / q[..., :8].norm(dim=-1)
    assert torch.allclose(grown, torch.full_like(grown, 1.2773), atol=1e-3)


def test_the_pairs_that_proportional_leaves_do_not_turn() -> None:
    position = rope(16, 64, scaling={"kind": "proportional", "share": 0.5})
    q = torch.randn(1, 1, 1, 16)
    turned, _ = position.rotate(q, q, Layout(positions_BT=torch.tensor([[33]])))
    still = [*range(4, 8), *range(12, 16)]
    assert torch.equal(turned[..., still], q[..., still])
    assert not torch.isclose(turned[..., :3], q[..., :3]).any()
    half = rope(16, 64, fraction=0.5)
    assert not torch.allclose(frequencies(position)[:4], frequencies(half)), "a fraction has frequencies of its own"


BY_LENGTH: list[dict[str, Any]] = [
    {"kind": "dynamic_ntk", "factor": 2, "original_length": 6},
    {"kind": "longrope", "original_length": 6, "short_factor": [1, 1, 1, 2], "long_factor": [1, 2, 4, 9]},
]


def model(scaling: dict[str, Any], stack: str = "decoder") -> Transformer:
    config = ModelConfig(
        stack=stack,
        vocab_size=11,
        d_model=16,
        n_layers=2,
        max_length=24,
        attention={"n_heads": 2},
        position={"kind": "rope", "scaling": scaling},
        initialisation={"std": None, "embedding_std": 1.0},
    )
    return Transformer(config).double()


@pytest.mark.parametrize("scaling", BY_LENGTH)
def test_each_document_is_as_long_as_itself_whatever_stands_beside_it(scaling: dict[str, Any]) -> None:
    """The length is not the row's nor the batch's, and padding does not count."""
    transformer = model(scaling)
    texts = [torch.randint(0, 11, (n,)) for n in (5, 13, 3, 9)]
    alone = [transformer(text[None]).logits[0] for text in texts]
    packed = torch.cat(texts)[None]
    documents = torch.repeat_interleave(torch.tensor([4, 1, 7, 2]), torch.tensor([5, 13, 3, 9]))[None]
    together = transformer(packed, Layout(document_BT=documents)).logits[0].split([5, 13, 3, 9])
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    rows = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    ragged = transformer(rows, Layout.ragged([5, 13, 3, 9])).logits
    for row, other in zip(ragged, alone, strict=True):
        torch.testing.assert_close(row[: len(other)], other, atol=1e-6, rtol=0)


@pytest.mark.parametrize("scaling", BY_LENGTH)
def test_texts_beyond_the_length_in_training_are_read_and_not_decoded(scaling: dict[str, Any]) -> None:
    transformer = model(scaling)
    assert str(transformer.config.cache_exact()) == "until length 6"
    tokens = torch.randint(0, 11, (2, 20))
    full = transformer(tokens).logits
    assert not torch.allclose(full[:, :6], transformer(tokens[:, :6]).logits, atol=1e-3), "the length is seen"
    with pytest.raises(ValueError, match="max_length is 7, but the model's cached decoding equals full passes up to 6"):
        transformer.init_state(1, 7)
    state = transformer.init_state(2, 6)
    steps = torch.cat([transformer(tokens[:, t : t + 1], state=state).logits for t in range(6)], dim=1)
    torch.testing.assert_close(steps, transformer(tokens[:, :6]).logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("scaling", "sentence"),
    [
        ({"kind": "linear", "factor": 0.5}, r"position\.scaling\.factor: must be greater than or equal to 1, not 0\.5"),
        ({"kind": "llama3", "original_length": 200}, r"original_length \(200\) is beyond max_length \(64\)"),
        ({"kind": "yarn", "factor": 2, "mscale": 1}, "give both or neither"),
        ({"kind": "yarn", "factor": 2, "mscale": 1, "mscale_all_dim": 1, "attention_factor": 1}, "give one"),
        ({"kind": "yarn", "factor": 2, "beta_fast": 1, "beta_slow": 2}, r"beta_fast \(1\) is below beta_slow \(2\)"),
        ({"kind": "llama3", "factor": 2, "low_freq_factor": 4}, r"high_freq_factor \(4\) must be above"),
        ({"kind": "longrope", "factor": 2, "long_factor": [1, 2]}, "long_factor has 2 numbers, but 4 pairs"),
        ({"kind": "longrope", "factor": 64}, "original_length is 1, whose logarithm is 0"),
        ({"kind": "cubic"}, "'cubic' is not a scaling; choose from: dynamic_ntk"),
    ],
)
def test_what_is_refused(scaling: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ModelConfig(d_model=16, max_length=64, attention={"n_heads": 2}, position={"kind": "rope", "scaling": scaling})


@pytest.mark.parametrize("kind", ["yarn", "llama3", "longrope"])
@pytest.mark.parametrize(
    ("given", "factor", "length"),
    [
        ({}, 4, 200),
        ({"factor": 8}, 8, 100),
        ({"original_length": 160}, 5, 160),
        ({"factor": 2, "original_length": 160}, 2, 160),
    ],
)
def test_max_length_gives_what_was_left_out(kind: str, given: dict[str, Any], factor: float, length: int) -> None:
    scaling = rope(32, 800, scaling={"kind": kind} | given).config.scaling
    assert (scaling.factor, scaling.original_length) == (factor, length)


@pytest.mark.parametrize("kind", ["ntk", "dynamic_ntk"])
def test_one_pair_has_no_slowest(kind: str) -> None:
    with pytest.raises(ConfigError, match="only one is rotated"):
        rope(2, 64, scaling={"kind": kind, "factor": 2})


def test_yarn_needs_wavelengths_that_differ() -> None:
    with pytest.raises(ConfigError, match="all alike with theta 1"):
        rope(8, 64, theta=1, scaling={"kind": "yarn", "factor": 2})
