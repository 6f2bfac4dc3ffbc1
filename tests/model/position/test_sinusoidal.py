"""Sinusoidal positions against the paper's formula (Vaswani et al. 2017, section 3.5)."""

import math

import pytest
import torch

from sublayer.errors import ConfigError
from sublayer.model import Layout, ModelConfig, Transformer
from sublayer.model.part import InitialisationConfig, StackShape
from sublayer.model.position.sinusoidal import Sinusoidal, SinusoidalConfig


def encoding(d_model: int, **options: object) -> Sinusoidal:
    shape = StackShape("decoder", d_model, n_layers=1, max_length=64)
    return Sinusoidal(SinusoidalConfig(**options).filled(shape))


@pytest.mark.parametrize("theta", [10000.0, 50.0])
def test_every_value_is_the_paper_s(theta: float) -> None:
    width, amplitude = 10, 0.3
    vectors = encoding(width, theta=theta, amplitude=amplitude).vectors(torch.arange(40))
    for position in range(40):
        for i in range(width // 2):
            angle = position / theta ** (2 * i / width)
            assert vectors[position, 2 * i].item() == pytest.approx(amplitude * math.sin(angle), abs=1e-6)
            assert vectors[position, 2 * i + 1].item() == pytest.approx(amplitude * math.cos(angle), abs=1e-6)


def test_left_out_the_waves_are_as_high_as_token_embeddings_are_wide() -> None:
    shape = StackShape("decoder", 8, n_layers=1, max_length=64, initialisation=InitialisationConfig(embedding_std=0.3))
    assert SinusoidalConfig().filled(shape).amplitude == 0.3


def test_the_product_of_two_positions_depends_on_their_distance_alone() -> None:
    vectors = encoding(32, amplitude=1.0).vectors(torch.arange(300)).double()
    products = vectors @ vectors.T
    for distance in (0, 1, 7, 50):
        along = products.diagonal(distance)
        assert along.max() - along.min() < 1e-5
    assert products[0, 0] - products[0, 7] > 1


def test_the_product_of_two_positions_is_a_sum_of_cosines_of_their_distance() -> None:
    """PE(p)·PE(p + k) = Σ_i cos(k·θ^(−2i/d)), at every p."""
    vectors = encoding(32, amplitude=1.0).vectors(torch.arange(1000)).double()
    for distance in (0, 1, 13, 400):
        expected = sum(math.cos(distance / 10000 ** (2 * i / 32)) for i in range(16))
        for position in (0, 5, 599):
            product = vectors[position] @ vectors[position + distance]
            assert product.item() == pytest.approx(expected, abs=1e-5)


def test_far_positions_are_exact() -> None:
    """The angle of position 100,000 is computed in float64: in float32 it would be off by up to 0.004."""
    vector = encoding(8, amplitude=1.0).vectors(torch.tensor([100_003]))[0]
    assert vector[0].item() == pytest.approx(math.sin(100_003), abs=1e-6)


def test_added_it_shifts_each_token_s_vector_by_its_position_s() -> None:
    x = torch.randn(2, 5, 8)
    position = encoding(8)
    y = position.embed(x, Layout(positions_BT=torch.tensor([[0, 1, 2, 3, 4], [7, 7, 0, 0, 9]])))
    assert torch.allclose(y[1, 4] - x[1, 4], position.vectors(torch.tensor(9)), atol=1e-6)
    assert torch.allclose(y[0] - x[0], position.vectors(torch.arange(5)), atol=1e-6)


def test_concatenated_it_stands_behind_the_token_s_vector() -> None:
    config = ModelConfig(
        vocab_size=7,
        d_model=16,
        n_layers=1,
        attention={"n_heads": 2},
        position={"kind": "sinusoidal", "combine": "concatenate", "d_position": 6},
        tied_embeddings=False,
    )
    model = Transformer(config)
    assert model.embedding.weight.shape == (7, 10)
    x = torch.randn(3, 4, 10)
    y = model.positions[0].embed(x, Layout(positions_BT=torch.arange(4)[None]))
    assert torch.equal(y[..., :10], x)
    assert torch.allclose(y[2, :, 10:], encoding(6).vectors(torch.arange(4)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"combine": "concatenate"}, 4), ({"combine": "concatenate", "d_position": 2}, 2), ({}, 16)],
)
def test_the_width_is_filled_in(options: dict[str, object], expected: int) -> None:
    assert encoding(16, **options).width == expected


@pytest.mark.parametrize(
    ("d_model", "options", "sentence"),
    [
        (15, {}, r"sinusoids come in pairs, but their width is 15"),
        (16, {"d_position": 4}, r"an added position is as wide as d_model \(16\)"),
        (16, {"combine": "concatenate", "d_position": 16}, r"leaves no width for the token in d_model \(16\)"),
        (16, {"combine": "concatenate", "d_position": 5}, r"their width is 5; choose an even width"),
    ],
)
def test_widths_that_do_not_fit_are_refused(d_model: int, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ModelConfig(
            d_model=d_model,
            position={"kind": "sinusoidal"} | options,
            attention={"n_heads": 1},
            tied_embeddings=False,
        )


def test_tied_embeddings_refuse_a_concatenated_position() -> None:
    with pytest.raises(ConfigError, match=r"tied_embeddings: false or position\.combine: add"):
        ModelConfig(d_model=16, attention={"n_heads": 2}, position={"kind": "sinusoidal", "combine": "concatenate"})
