"""Initial values: from (seed, name) alone, with the deviations that the config names."""

import pytest
import torch
from torch import nn

from sublayer.errors import ConfigError
from sublayer.model import ModelConfig, Transformer
from sublayer.model.initialise import Constant, Normal, initialise


def model(**changes: object) -> Transformer:
    values: dict[str, object] = {
        "vocab_size": 300,
        "d_model": 128,
        "n_layers": 4,
        "attention": {"n_heads": 4, "bias": True},
        "feed_forward": {"kind": "dense", "bias": True},
        "norm": "layer",
        "tied_embeddings": False,
    }
    return Transformer(ModelConfig(**values | changes))


OUTPUTS = ("attention.output.weight", "feed_forward.down.weight")


@pytest.mark.parametrize(
    ("initialisation", "inner", "output"),
    [
        # Divided by √(2 sublayers · 4 layers).
        ({}, (0.02, 0.02), (0.02 / 8**0.5, 0.02 / 8**0.5)),
        ({"depth_scaled": False}, (0.02, 0.02), (0.02, 0.02)),
        ({"std": 0.1}, (0.1, 0.1), (0.1 / 8**0.5, 0.1 / 8**0.5)),
        # 1/√fan_in: 128 for all but the last matrix of the feed-forward, which has 512 inputs.
        ({"std": None, "depth_scaled": False}, (128**-0.5, 128**-0.5), (128**-0.5, 512**-0.5)),
    ],
)
def test_deviations_of_the_matrices(
    initialisation: dict[str, object], inner: tuple[float, float], output: tuple[float, float]
) -> None:
    transformer = model(initialisation=initialisation)
    for name, parameter in transformer.named_parameters():
        if name.endswith(("query.weight", "key.weight", "value.weight")):
            expected = inner[0]
        elif name.endswith("up.weight"):
            expected = inner[1]
        elif name.endswith(OUTPUTS):
            expected = output[OUTPUTS.index(".".join(name.split(".")[-3:]))]
        elif name == "embedding.weight":
            expected = 0.02
        elif name == "head.output.weight":
            expected = inner[0]
        else:
            assert parameter.unique().tolist() == ([1.0] if name.endswith("weight") else [0.0]), name
            continue
        assert parameter.std().item() == pytest.approx(expected, rel=0.03), name
        assert abs(parameter.mean().item()) < 0.05 * expected, name


def test_embeddings_have_a_deviation_of_their_own() -> None:
    transformer = model(initialisation={"embedding_std": 0.7}, position="learned")
    assert transformer.embedding.weight.std().item() == pytest.approx(0.7, rel=0.03)
    assert transformer.positions[0].weight.std().item() == pytest.approx(0.7, rel=0.03)


def test_layers_start_unequal() -> None:
    transformer = model()
    first, second = transformer.blocks[0].attention, transformer.blocks[1].attention
    assert not torch.equal(first.query.weight, second.query.weight)
    assert not torch.equal(first.query.weight, first.key.weight)


class Ruled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 4)
        self.scale = nn.Parameter(torch.empty(2))

    def initial_values(self) -> dict[str, Constant | Normal]:
        return {"scale": Constant(7.0), "inner.bias": Constant(-1.0)}


def test_what_an_outer_module_says_of_a_child_wins_over_the_child_s_own_rule() -> None:
    module = Ruled()
    initialise(module, seed=0)
    assert module.scale.tolist() == [7.0, 7.0]
    assert module.inner.bias.tolist() == [-1.0] * 4


def test_a_parameter_without_a_rule_is_refused_by_name() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.empty(2))

    with pytest.raises(
        ConfigError, match=r"^0\.gain: Bare has no rule for this parameter; give it an `initial_values`"
    ):
        initialise(nn.Sequential(Bare()), seed=0)


def test_values_do_not_depend_on_what_else_the_module_holds() -> None:
    alone, beside = nn.ModuleDict({"b": nn.Linear(3, 4)}), nn.ModuleDict({"a": nn.Linear(5, 5), "b": nn.Linear(3, 4)})
    initialise(alone, seed=3)
    initialise(beside, seed=3)
    assert torch.equal(alone["b"].weight, beside["b"].weight)
