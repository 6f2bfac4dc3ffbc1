"""FIRE against the paper's formula with its hidden layer laid out (Li et al. 2024, equations 8 to 10)."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sublayer.errors import ConfigError
from sublayer.model import ModelConfig, Transformer
from sublayer.model.layout import Span
from sublayer.model.position.fire import Fire, FireConfig

NAMES = ("c", "threshold_factor", "hidden_weight", "hidden_bias", "output_weight", "output_bias")


def fire(n_heads: int, seed: int = 0, **options: object) -> Fire:
    position = Fire(FireConfig(**{"threshold": 12.0} | options), n_heads).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in NAMES:
            values = getattr(position, name)
            values.copy_(torch.randn(values.shape, generator=generator, dtype=torch.float64))
    return position


def by_formula(position: Fire, queries: list[int], keys: list[int]) -> Tensor:
    """f(ψ(i − j) / ψ(max(L, i))) one pair after the other, [H, T, S]."""
    c, limit = position.c.abs(), (position.threshold_factor * position.config.threshold).abs()
    rows = []
    for i in queries:
        for j in keys:
            farthest = torch.maximum(limit, torch.tensor(float(i)))
            share = torch.log(c * abs(i - j) + 1) / (torch.log(c * farthest + 1) + 1e-6)
            hidden = F.relu(position.hidden_weight * share + position.hidden_bias)
            rows.append(hidden @ position.output_weight + position.output_bias)
    return torch.stack(rows).T.view(-1, len(queries), len(keys))


def dense(position: Fire, queries: list[int], keys: list[int]) -> Tensor:
    span = Span(torch.tensor([queries]), torch.tensor([keys]))
    return position.prepare(torch.zeros(0), torch.zeros(0), span, 1.0).dense(span)[0]


QUERIES, KEYS = [0, 1, 5, 11, 12, 40, 900], [0, 1, 2, 5, 11, 33, 899]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("width", [1, 2, 32])
def test_the_bias_and_its_gradients_are_the_formula_s(seed: int, width: int) -> None:
    position = fire(3, seed, width=width)
    found, expected = dense(position, QUERIES, KEYS), by_formula(position, QUERIES, KEYS)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    cotangent = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    parameters = [getattr(position, name) for name in NAMES]
    actual = torch.autograd.grad(found, parameters, cotangent)
    wanted = torch.autograd.grad(expected, parameters, cotangent)
    for name, one, other in zip(NAMES, actual, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}")


def test_units_without_a_bend_and_units_that_bend_at_one_place() -> None:
    position = fire(2, width=6)
    with torch.no_grad():
        position.hidden_weight.copy_(torch.tensor([0.0, 0.0, 1.0, 2.0, -1.0, 1.0]))
        position.hidden_bias.copy_(torch.tensor([0.5, -0.5, -0.25, -0.5, 0.25, 0.0]))
    torch.testing.assert_close(dense(position, QUERIES, KEYS), by_formula(position, QUERIES, KEYS))


def test_the_hidden_units_are_not_laid_out_for_each_pair() -> None:
    """With 32 of them for each of a million pairs, 128 MB would be held for the gradient alone."""
    position = Fire(FireConfig(threshold=128.0), 2)
    for name in NAMES:
        torch.nn.init.normal_(getattr(position, name))
    held = []
    positions = torch.arange(1024)[None]
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: held.append(x.untyped_storage().nbytes()) or x, lambda x: x
    ):
        bias = position.bias(Span(positions, positions))
    assert bias.requires_grad
    assert sum(held) < 64e6


def test_it_starts_at_a_quarter_of_max_length_and_with_the_appendix_s_layers() -> None:
    config = ModelConfig(
        vocab_size=7, d_model=16, n_layers=2, max_length=2048, attention={"n_heads": 2}, position="fire"
    )
    model = Transformer(config)
    first, second = model.positions
    assert first.config.threshold == 512
    assert first.c.item() == pytest.approx(0.1)
    assert first.hidden_bias.abs().max() <= 1 and first.hidden_bias.std() > 0.4
    assert first.output_weight.abs().max() <= 1 / math.sqrt(32)
    assert not torch.equal(first.hidden_weight, second.hidden_weight)


def test_fire_s_has_one_function_for_all_layers_made_once_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(
        vocab_size=7, d_model=16, n_layers=3, attention={"n_heads": 2}, position={"kind": "fire", "all_layers": True}
    )
    model = Transformer(config)
    assert len(model.positions) == 1
    made = []
    whole = Fire.bias
    monkeypatch.setattr(Fire, "bias", lambda self, span: made.append(1) or whole(self, span))
    model(torch.zeros(1, 5, dtype=torch.int64))
    assert len(made) == 1


def test_it_is_defined_for_what_stands_before() -> None:
    with pytest.raises(ConfigError, match="'fire' is not defined for an encoder"):
        ModelConfig(stack="encoder", position="fire")
