"""KERPLE against its two kernels written out (Chi et al. 2022, corollary 1)."""

import math

import pytest
import torch

from sublayer.model import ModelConfig, Transformer
from sublayer.model.layout import Span
from sublayer.model.position.kerple import Kerple, KerpleConfig


def bias(position: Kerple, queries: list[int], keys: list[int]) -> torch.Tensor:
    span = Span(torch.tensor([queries]), torch.tensor([keys]))
    return position.prepare(torch.zeros(0), torch.zeros(0), span, 1.0).dense(span)


def test_log_lowers_by_r1_times_the_logarithm() -> None:
    position = Kerple(KerpleConfig(), 2)
    with torch.no_grad():
        position.r1.copy_(torch.tensor([0.7, -1.5]))  # of which only the size counts
        position.r2.copy_(torch.tensor([-0.3, 2.0]))
    found = bias(position, [3, 100], [0, 3, 8])
    for h, (r1, r2) in enumerate([(0.7, 0.3), (1.5, 2.0)]):
        for t, i in enumerate([3, 100]):
            for s, j in enumerate([0, 3, 8]):
                assert found[0, h, t, s].item() == pytest.approx(-r1 * math.log(1 + r2 * abs(i - j)), rel=1e-6)


def test_power_lowers_by_r1_times_the_power_and_is_alibi_at_one() -> None:
    position = Kerple(KerpleConfig(variant="power"), 2)
    with torch.no_grad():
        position.r1.copy_(torch.tensor([0.5, 0.25]))
        position.r2.copy_(torch.tensor([0.0, 1.2]))  # 2σ(0) = 1
    found = bias(position, [10], [0, 10, 7, 12])
    assert found[0, 0, 0].tolist() == pytest.approx([-5.0, 0.0, -1.5, -1.0])
    exponent = 2 / (1 + math.exp(-1.2))
    assert found[0, 1, 0].tolist() == pytest.approx([-0.25 * d**exponent for d in (10, 0, 3, 2)], rel=1e-6)


@pytest.mark.parametrize("variant", ["log", "power"])
def test_gradients_are_finite_at_distance_0(variant: str) -> None:
    position = Kerple(KerpleConfig(variant=variant), 2)
    torch.nn.init.uniform_(position.r1), torch.nn.init.uniform_(position.r2)
    bias(position, [4], [4, 2]).sum().backward()
    assert position.r1.grad.isfinite().all() and position.r2.grad.isfinite().all()
    assert (position.r2.grad != 0).any()


def test_every_layer_and_head_starts_with_numbers_of_its_own_in_the_authors_ranges() -> None:
    config = ModelConfig(vocab_size=7, d_model=400, n_layers=2, attention={"n_heads": 200}, position="kerple")
    first, second = Transformer(config).positions
    assert not torch.equal(first.r1, second.r1)
    for values, high in ((first.r1, 2), (first.r2, 1)):
        assert 0 <= values.min() < 0.05 * high
        assert 0.95 * high < values.max() <= high
