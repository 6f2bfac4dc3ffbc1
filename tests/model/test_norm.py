"""Norms against their formulas."""

import math

import pytest
import torch

from sublayer.model.norm import LayerNormConfig, RMSNormConfig

X = [[1.0, 2.0, 4.0, -3.0], [0.0, 0.0, 0.0, 0.1]]


@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm(bias: bool) -> None:
    module = LayerNormConfig(epsilon=0.01, bias=bias).build(4)
    assert (module.bias is not None) == bias
    with torch.no_grad():
        module.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        if bias:
            module.bias.fill_(0.5)
    for row, y in zip(X, module(torch.tensor(X)).tolist(), strict=True):
        mean = sum(row) / 4
        deviation = math.sqrt(sum((x - mean) ** 2 for x in row) / 4 + 0.01)
        expected = [(i + 1) * (x - mean) / deviation + 0.5 * bias for i, x in enumerate(row)]
        assert y == pytest.approx(expected, abs=1e-5)


def test_rms_norm() -> None:
    module = RMSNormConfig(epsilon=0.01).build(4)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    for row, y in zip(X, module(torch.tensor(X)).tolist(), strict=True):
        size = math.sqrt(sum(x * x for x in row) / 4 + 0.01)
        assert y == pytest.approx([(i + 1) * x / size for i, x in enumerate(row)], abs=1e-5)
