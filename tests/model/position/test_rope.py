"""Rotary positions against rotations written out as complex numbers (Su et al. 2021, equation 34)."""

import cmath

import pytest
import torch
from torch import Tensor

from sublayer.errors import ConfigError
from sublayer.model import Layout, ModelConfig
from sublayer.model.position.rope import Rope, RopeConfig


def rope(d_head: int, **options: object) -> Rope:
    return Rope(RopeConfig(**options), d_head)


def at(positions: list[int]) -> Layout:
    return Layout(positions_BT=torch.tensor([positions]))


def rotated_by_hand(x: Tensor, position: int, theta: float, layout: str, width: int) -> list[float]:
    """Each pair of features as a complex number, turned by position·θ^(−2i/width)."""
    values = x.tolist()
    for i in range(width // 2):
        first, second = (i, i + width // 2) if layout == "half" else (2 * i, 2 * i + 1)
        turned = complex(values[first], values[second]) * cmath.exp(1j * position * theta ** (-2 * i / width))
        values[first], values[second] = turned.real, turned.imag
    return values


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize(("fraction", "width"), [(1.0, 8), (0.5, 4), (0.75, 6)])
def test_every_pair_is_turned_by_the_paper_s_angle(layout: str, fraction: float, width: int) -> None:
    q, k = torch.randn(2, 1, 3, 4, 8, dtype=torch.float64)
    positions = [0, 1, 17, 100]
    turned_q, turned_k = rope(8, theta=100.0, layout=layout, fraction=fraction).rotate(q, k, at(positions))
    for before, after in ((q, turned_q), (k, turned_k)):
        for head in range(3):
            for t, position in enumerate(positions):
                expected = rotated_by_hand(before[0, head, t], position, 100.0, layout, width)
                assert after[0, head, t].tolist() == pytest.approx(expected, abs=2e-5)
    assert torch.equal(turned_q[..., width:], q[..., width:]), "features beyond the fraction are left alone"


def test_interleaved_is_half_of_permuted_features() -> None:
    """interleaved(x[perm]) == half(x)[perm], with perm = (0, d/2, 1, d/2 + 1, …)."""
    x = torch.randn(1, 2, 6, 8)
    perm = torch.arange(8).view(2, 4).T.flatten()
    layout = at([0, 3, 5, 90, 91, 1000])
    half, _ = rope(8).rotate(x, x, layout)
    interleaved, _ = rope(8, layout="interleaved").rotate(x[..., perm], x, layout)
    assert torch.allclose(interleaved, half[..., perm], atol=1e-6)


@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_products_depend_on_the_difference_of_positions_alone(layout: str) -> None:
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64)
    position = rope(16, layout=layout)

    def product(i: int, j: int) -> float:
        turned_q, _ = position.rotate(q, k, at([i]))
        _, turned_k = position.rotate(q, k, at([j]))
        return float((turned_q * turned_k).sum())

    assert product(7, 3) == pytest.approx(product(104, 100), abs=1e-4)
    assert product(3, 3) == pytest.approx(float((q * k).sum()), abs=1e-4)
    assert product(7, 3) != pytest.approx(product(3, 7), abs=1e-3)
    assert product(7, 3) != pytest.approx(product(8, 3), abs=1e-3)


def test_angles_of_far_positions_are_not_rounded_to_the_model_s_dtype() -> None:
    """bfloat16 holds 897 distinct values for the positions 0 … 8191; neighbours must stay apart all the same."""
    x = torch.zeros(1, 1, 8192, 2, dtype=torch.bfloat16)
    x[..., 0] = 1
    turned, _ = rope(2).rotate(x, x, at(list(range(8192))))
    assert turned.dtype == torch.bfloat16
    angles = torch.atan2(turned[0, 0, :, 1].float(), turned[0, 0, :, 0].float())
    true = torch.remainder(torch.arange(8192, dtype=torch.float64) + torch.pi, 2 * torch.pi) - torch.pi
    error = torch.remainder(angles - true + torch.pi, 2 * torch.pi) - torch.pi
    assert error.abs().max() < 0.01


def test_a_rotation_keeps_lengths() -> None:
    q = torch.randn(2, 3, 5, 8)
    turned, _ = rope(8).rotate(q, q, at([5, 6, 700, 8, 9]))
    assert torch.allclose(turned.norm(dim=-1), q.norm(dim=-1), rtol=1e-5)


@pytest.mark.parametrize(
    ("d_head", "fraction", "rotated"), [(7, 1.0, 7), (8, 0.4, 3), (8, 0.1, 0)], ids=["odd", "odd part", "nothing"]
)
def test_an_odd_or_empty_width_is_refused(d_head: int, fraction: float, rotated: int) -> None:
    with pytest.raises(ConfigError, match=rf"it would rotate {rotated} of each head's {d_head}"):
        ModelConfig(
            d_model=16, attention={"n_heads": 2, "d_head": d_head}, position={"kind": "rope", "fraction": fraction}
        )


def test_a_head_that_a_layer_chose_is_refused_at_that_layer() -> None:
    with pytest.raises(ConfigError, match=r"^layers\[1\]\.attention: rope rotates pairs"):
        ModelConfig(d_model=16, attention={"n_heads": 2}, layers=[{}, {"attention": {"d_head": 5}}])
