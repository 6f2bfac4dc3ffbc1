"""Learned absolute positions."""

import pytest
import torch

from sublayer.errors import ConfigError
from sublayer.model import Layout, ModelConfig, Transformer


def config(**changes: object) -> ModelConfig:
    values: dict[str, object] = {
        "vocab_size": 7,
        "d_model": 8,
        "n_layers": 2,
        "max_length": 10,
        "attention": {"n_heads": 2},
        "position": "learned",
    }
    return ModelConfig(**values | changes)


def test_each_token_gets_the_row_of_its_position() -> None:
    position = Transformer(config()).positions[0]
    x = torch.zeros(1, 4, 8)
    y = position.embed(x, Layout(positions_BT=torch.tensor([[3, 0, 9, 3]])))
    assert torch.equal(y[0], position.weight[[3, 0, 9, 3]])


def test_the_table_has_max_length_rows_with_the_embeddings_deviation() -> None:
    model = Transformer(config(d_model=64, max_length=400, initialisation={"embedding_std": 0.5}))
    weight = model.positions[0].weight
    assert weight.shape == (400, 64)
    assert weight.std().item() == pytest.approx(0.5, rel=0.03)


def test_there_is_one_table_however_the_layers_heads_differ() -> None:
    model = Transformer(config(layers=[{}, {"attention": {"n_heads": 4}}]))
    assert [name for name, _ in model.named_parameters() if "positions" in name] == ["positions.0.weight"]


def test_decoding_is_exact_up_to_max_length_and_refused_beyond() -> None:
    assert str(config().cache_exact()) == "until length 10"
    model = Transformer(config())
    assert model.init_state(1, 10).max_length == 10
    with pytest.raises(ValueError, match=r"max_length is 11, but the model's positions end at 10"):
        model.init_state(1, 11)


def test_a_table_may_be_longer_than_texts_are_and_not_shorter() -> None:
    longer = config(position={"kind": "learned", "n_positions": 12})
    assert Transformer(longer).positions[0].weight.shape == (12, 8)
    assert longer.longest() == 12
    with pytest.raises(ConfigError, match=r"n_positions \(9\) is below max_length \(10\)"):
        config(position={"kind": "learned", "n_positions": 9})
