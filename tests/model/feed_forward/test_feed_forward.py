"""Feed-forwards against their formulas, with the activations written out."""

import math
import pickle
from collections.abc import Callable

import pytest
import torch
from transformers.activations import ACT2FN

from sublayer.errors import ConfigError
from sublayer.model import ModelConfig, Transformer
from sublayer.model.activation import ACTIVATIONS
from sublayer.model.feed_forward.dense import Dense
from sublayer.model.feed_forward.gated import Gated

BY_HAND: dict[str, Callable[[float], float]] = {
    "relu": lambda x: max(x, 0.0),
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "relu2": lambda x: max(x, 0.0) ** 2,
    "silu": lambda x: x / (1 + math.exp(-x)),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "identity": lambda x: x,
    "leaky_relu": lambda x: x if x > 0 else x / 100,
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "gelu_quick": lambda x: x / (1 + math.exp(-1.702 * x)),
    "mish": lambda x: x * math.tanh(math.log(1 + math.exp(x))),
    "softplus": lambda x: math.log(1 + math.exp(x)),
    "tanh": math.tanh,
}


def built(choice: object) -> torch.nn.Module:
    config = ModelConfig(vocab_size=5, d_model=6, n_layers=1, attention={"n_heads": 1}, feed_forward=choice)
    module = Transformer(config).blocks[0].feed_forward
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module


def test_every_activation_is_written_out_here() -> None:
    assert set(BY_HAND) == set(ACTIVATIONS)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("identity", "linear"),
        ("relu", "relu"),
        ("leaky_relu", "leaky_relu"),
        ("relu2", "relu2"),
        ("gelu", "gelu"),
        ("gelu_tanh", "gelu_new"),
        ("gelu_quick", "quick_gelu"),
        ("silu", "silu"),
        ("mish", "mish"),
        ("tanh", "tanh"),
        ("sigmoid", "sigmoid"),
    ],
)
def test_activations_are_those_of_transformers(name: str, theirs: str) -> None:
    x = torch.linspace(-9, 9, 181, dtype=torch.float64)
    torch.testing.assert_close(ACTIVATIONS[name](x), ACT2FN[theirs](x))


def run(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    y, _ = module(x, None)
    return y


def apply(activation: str, x: torch.Tensor) -> torch.Tensor:
    return torch.tensor([BY_HAND[activation](value) for value in x.flatten().tolist()]).view_as(x)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", BY_HAND)
def test_dense(activation: str, bias: bool) -> None:
    module = built({"kind": "dense", "activation": activation, "d_ff": 9, "bias": bias})
    x = torch.randn(2, 3, 6)
    w, v = module.up.weight, module.down.weight
    a, b = (module.up.bias, module.down.bias) if bias else (0, 0)
    assert torch.allclose(run(module, x), apply(activation, x @ w.T + a) @ v.T + b, atol=1e-4)


@pytest.mark.parametrize("activation", BY_HAND)
def test_gated(activation: str) -> None:
    module = built({"kind": "gated", "activation": activation, "d_ff": 9})
    x = torch.randn(2, 3, 6)
    hidden = apply(activation, x @ module.gate.weight.T) * (x @ module.up.weight.T)
    assert torch.allclose(run(module, x), hidden @ module.down.weight.T, atol=1e-4)


@pytest.mark.parametrize(
    ("word", "kind", "activation"),
    [
        ("swiglu", Gated, "silu"),
        ("geglu", Gated, "gelu"),
        ("reglu", Gated, "relu"),
        ("glu", Gated, "sigmoid"),
        ("bilinear", Gated, "identity"),
        ("gelu", Dense, "gelu"),
        ("gelu_tanh", Dense, "gelu_tanh"),
        ("relu", Dense, "relu"),
        ("relu2", Dense, "relu2"),
        ("silu", Dense, "silu"),
        ("gelu_quick", Dense, "gelu_quick"),
        ("mish", Dense, "mish"),
    ],
)
def test_a_word_stands_for_a_kind_and_its_activation(word: str, kind: type, activation: str) -> None:
    module = built(word)
    assert type(module) is kind
    x = torch.randn(7)
    assert torch.allclose(module.activation(x), apply(activation, x), atol=1e-6)


def test_a_word_takes_options_of_its_kind() -> None:
    config = ModelConfig(feed_forward={"kind": "geglu", "d_ff": 48})
    assert (
        config.feed_forward.tree() | {"d_ff": 48, "activation": "gelu", "kind": "gated"} == config.feed_forward.tree()
    )


@pytest.mark.parametrize("nothing", ["none", None])
def test_none_leaves_the_layer_with_attention_alone(nothing: str | None) -> None:
    model = Transformer(
        ModelConfig(vocab_size=5, d_model=6, n_layers=2, attention={"n_heads": 1}, feed_forward=nothing)
    )
    assert all(block.feed_forward is None for block in model.blocks)
    assert [name for name, _ in model.blocks[0].sublayers()] == ["attention"]


@pytest.mark.parametrize(
    ("choice", "d_model", "d_ff"),
    [
        ("relu", 10, 40),
        ("swiglu", 12, 32),
        ("swiglu", 384, 1024),
        ("swiglu", 768, 2048),
        ({"kind": "gated", "d_ff": 5}, 12, 5),
    ],
)
def test_the_width_left_out_is_filled_in(choice: object, d_model: int, d_ff: int) -> None:
    config = ModelConfig(d_model=d_model, attention={"n_heads": 1}, feed_forward=choice, position="none")
    assert config.resolve()[0].feed_forward.d_ff == d_ff


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^feed_forward\.activation: must be 'identity', .* or 'sigmoid', not 'swish'\.$"
    ):
        ModelConfig(feed_forward={"kind": "gated", "activation": "swish"})


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_model_of_any_activation_can_be_pickled(activation: str) -> None:
    values = {"vocab_size": 7, "d_model": 8, "n_layers": 1, "attention": {"n_heads": 2}}
    model = Transformer(ModelConfig(**values, feed_forward={"kind": "gated", "activation": activation}))
    again, tokens = pickle.loads(pickle.dumps(model)), torch.arange(7)[None]
    assert torch.equal(again(tokens).logits, model(tokens).logits)
