"""Stochastic depth: rows without a sublayer, the more the deeper, with the mean kept."""

from itertools import product

import pytest
import torch
from torch.nn import functional as F

from sublayer.errors import ConfigError
from sublayer.model import ModelConfig
from sublayer.model.part import StackShape
from sublayer.model.residual import ResidualConfig
from sublayer.model.residual.stochastic_depth import stochastic_depth
from tests.model.residual.blocks import attention, feed_forward, logits, model, norm

KINDS = [part for part in ResidualConfig.registry if part.kind_name() != "none"]


def test_a_row_is_left_out_as_a_whole_and_the_others_scaled_up() -> None:
    torch.manual_seed(0)
    y = torch.randn(4000, 3, 2)
    kept = stochastic_depth(y, 0.25, training=True)
    there = (kept != 0).flatten(1).any(1)
    torch.testing.assert_close(kept[there], y[there] / 0.75)
    assert there.float().mean().item() == pytest.approx(0.75, abs=0.03)


def test_nothing_is_left_out_when_not_in_training() -> None:
    y = torch.randn(8, 3, 2)
    assert stochastic_depth(y, 0.9, training=False) is y
    assert stochastic_depth(y, 0.0, training=True) is y


@pytest.mark.parametrize("part", KINDS, ids=[part.kind_name() for part in KINDS])
def test_every_wiring_leaves_sublayers_out_linearly_by_depth(part: type[ResidualConfig]) -> None:
    shape = StackShape("decoder", 4, 5, 16, stochastic_depth=0.5)
    config, norm = part().filled(shape), ModelConfig().norm
    built = [config.build(shape, norm, 2, layer) for layer in range(5)]
    assert [residual.left_out for residual in built] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    torch.manual_seed(0)
    y = torch.ones(2000, 1, 4)
    shares = [(residual.train().branch(y)[:, 0, 0] == 0).float().mean().item() for residual in built]
    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5], abs=0.04)
    assert all(residual.eval().branch(y) is y for residual in built)


def test_in_a_model_each_row_leaves_out_its_own() -> None:
    transformer = model("pre_norm", stochastic_depth=0.5).train()
    tokens = torch.tensor([[1, 2, 3, 4]]).expand(60, -1)
    torch.manual_seed(0)
    actual = transformer(tokens).logits
    x = F.embedding(tokens[:1], transformer.embedding.weight)
    expected = []
    for first, second in product((0, 2), repeat=2):  # left out, or there and scaled up
        y = x + first * attention(transformer, 0, norm(x))
        y = y + second * feed_forward(transformer, 0, norm(y))
        expected.append(logits(transformer, norm(y))[0])
    which = [[torch.allclose(row, each, rtol=1e-3, atol=1e-3) for each in expected] for row in actual]
    assert all(sum(row) == 1 for row in which)
    assert all(sum(column) >= 5 for column in zip(*which, strict=True))


def test_a_model_with_nothing_around_its_sublayers_refuses_it() -> None:
    with pytest.raises(ConfigError, match=r"^residual: of a sublayer that is left out nothing goes on, .* set sto"):
        model("none", stochastic_depth=0.1)
