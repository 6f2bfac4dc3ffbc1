"""What the model refuses in a sentence of its own rather than in torch's."""

import pytest
import torch
from torch import nn

from sublayer.errors import ConfigError
from sublayer.model import Layout, ModelConfig, Transformer
from sublayer.model.initialise import initialise
from sublayer.model.layout import Span
from sublayer.model.part import Heads, StackShape
from sublayer.model.position import PositionConfig


def test_more_tokens_than_positions() -> None:
    model = Transformer(ModelConfig(vocab_size=9, d_model=8, n_layers=1, max_length=4, position="learned"))
    with pytest.raises(ValueError, match="5 tokens are given, but the model's positions end at 4"):
        model(torch.zeros(1, 5, dtype=torch.int64))
    model(torch.zeros(1, 4, dtype=torch.int64))


def test_targets_of_another_shape() -> None:
    model = Transformer(ModelConfig(vocab_size=9, d_model=8, n_layers=1))
    with pytest.raises(ValueError, match=r"targets have shape \(1, 4\), but the tokens \(1, 5\)"):
        model(torch.zeros(1, 5, dtype=torch.int64), targets=torch.zeros(1, 4, dtype=torch.int64))


def test_a_state_that_could_not_be_exact_or_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from sublayer.model.part import CacheExact

    config = ModelConfig(vocab_size=9, d_model=8, n_layers=1)
    model = Transformer(config)
    with pytest.raises(ValueError, match=r"max_length \(0\) must be at least 1"):
        model.init_state(1, 0)
    reason = CacheExact(reason="it looks ahead")
    monkeypatch.setattr(type(config.attention), "cache_exact", lambda *_: reason)
    with pytest.raises(ValueError, match="would not equal full passes: it looks ahead"):
        model.init_state(1, 8)


def test_a_changed_copy_is_composed_anew() -> None:
    config = ModelConfig(vocab_size=9, d_model=8, n_layers=2)
    assert len(config.model_copy(update={"n_layers": 4}).resolve()) == 4
    with pytest.raises(ConfigError, match="n_heads"):
        config.model_copy(update={"attention": {"n_heads": 3}})


def test_torch_s_own_modules_in_a_part_have_initial_values() -> None:
    module = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Conv1d(64, 8, 3), nn.Embedding(100, 64))
    initialise(module, 0)
    assert module[0].weight.std().item() == pytest.approx(1 / 8, rel=0.1)
    assert module[2].weight.std().item() == pytest.approx((64 * 3) ** -0.5, rel=0.1)
    assert module[3].weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert bool((module[1].weight == 1).all())
    assert bool((module[0].bias == 0).all())


@pytest.mark.parametrize("part", list(PositionConfig.registry), ids=lambda part: part.kind_name())
def test_a_position_says_whether_it_changes_values(part: type[PositionConfig]) -> None:
    """By what a config says, kernels are refused before there is a model."""
    shape, heads = StackShape("decoder", d_model=8, n_layers=1, max_length=4), Heads(2, 4)
    try:
        config = part().filled(shape)
    except ValueError:  # what it needs is tested beside it
        pytest.skip("has options that must be given")
    q_BHTK, layout = torch.zeros(1, 2, 3, 4), Layout().resolved(3, torch.device("cpu"))
    change = config.build(shape, heads).prepare(q_BHTK, q_BHTK, Span.within(layout, plain=True), 1.0)
    assert config.changes_values == (change is not None and change.changes_values)
