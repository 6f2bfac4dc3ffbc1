"""ALiBi against slopes worked out by hand (Press et al. 2022, section 3)."""

import pytest
import torch

from sublayer.model.attention.kernel import KERNELS, Attention
from sublayer.model.attention.pattern.base import Causal
from sublayer.model.layout import Span
from sublayer.model.position.alibi import Alibi, slopes

SLOPES = {
    1: [2**-8],
    2: [2**-4, 2**-8],
    # Two of two heads, then the first of four heads' odd ones: 2^−2.
    3: [2**-4, 2**-8, 2**-2],
    8: [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256],
    # Eight of eight heads, then 2^−0.5, 2^−1.5, 2^−2.5, 2^−3.5, the first odd ones of sixteen.
    12: [
        *(1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256),
        *(0.7071067811865476, 0.35355339059327373, 0.17677669529663687, 0.08838834764831843),
    ],
}


@pytest.mark.parametrize("n_heads", SLOPES)
def test_slopes(n_heads: int) -> None:
    assert slopes(n_heads) == pytest.approx(SLOPES[n_heads], rel=1e-12)


def test_the_bias_is_minus_slope_times_distance_in_both_directions() -> None:
    queries, keys = torch.tensor([[2, 5]]), torch.tensor([[0, 2, 9]])
    change = Alibi(3).prepare(torch.zeros(0), torch.zeros(0), Span(queries, keys), 1.0)
    bias = change.dense(Span(queries, keys))
    assert bias.shape == (1, 3, 2, 3)
    for h, slope in enumerate(SLOPES[3]):
        for t, i in enumerate([2, 5]):
            for s, j in enumerate([0, 2, 9]):
                assert bias[0, h, t, s].item() == pytest.approx(-slope * abs(i - j))


def test_neighbouring_far_keys_keep_different_biases() -> None:
    """Of a slope times an absolute index in bfloat16, 5 distinct values would be left for the last 64 keys at 4096."""
    span = Span(torch.tensor([[4095]]), torch.arange(4096)[None])
    bias = Alibi(8).prepare(torch.zeros(0, dtype=torch.bfloat16), torch.zeros(0), span, 1.0).dense(span)
    assert bias.dtype == torch.float32
    assert len(bias[0, 0, 0, -64:].unique()) == 64
    assert len(bias[0, 7, 0, :64].unique()) == 64


def test_recency_in_one_layer_is_primacy_in_many() -> None:
    """Attention by distance alone, at slope 1/2, rolled out over layers (Wu et al. 2025, theorem 4.5)."""
    positions = torch.arange(64)[None]
    span, nothing = Span(positions, positions), torch.zeros(1, 8, 64, 4, dtype=torch.float64)
    change = Alibi(8).prepare(nothing, nothing, span, 1.0)
    call = Attention(Causal(), span, 1.0, change, want_weights=True)
    weights = KERNELS["reference"](nothing, nothing, nothing, call).weights_BHTS[0, 0]
    reached = {layers: torch.linalg.matrix_power(weights, layers)[-1] for layers in (1, 32, 64)}
    mean = {layers: float(row @ positions[0].double()) for layers, row in reached.items()}
    assert mean[1] == pytest.approx(61.5, abs=0.05)
    assert mean[32] == pytest.approx(14.5, abs=0.05)
    assert reached[64][0].item() == pytest.approx(0.988, abs=5e-4)
