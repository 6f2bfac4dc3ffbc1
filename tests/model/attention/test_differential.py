"""Differential attention: transformers' own, loops over heads, and what two equal maps come to."""

from copy import deepcopy
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from sublayer.errors import ConfigError
from sublayer.model import Layout, ModelConfig, Transformer
from sublayer.model.attention.differential import Differential, DifferentialConfig
from sublayer.model.attention.memory import KeyValueMemory
from sublayer.model.cost import cost
from sublayer.model.layout import Span
from sublayer.model.part import Heads, StackShape
from sublayer.model.position import Position
from sublayer.model.position.rope import RopeConfig
from sublayer.model.sublayer import Context

LENGTH, H, G, K, D = 9, 4, 2, 6, 48
SHAPE = StackShape("decoder", d_model=D, n_layers=4, max_length=64)


def built(layer: int = 0, **options: Any) -> Differential:
    config = DifferentialConfig(**{"n_heads": H, "n_kv_heads": G, "d_head": K} | options).filled(SHAPE)
    module = config.build(SHAPE, layer)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.randn(parameter.shape) * (0.5 if "lambda" in name else 0.3))
    return module


def context(position: Position | None = None, want: frozenset[str] = frozenset()) -> Context:
    layout = Layout().resolved(LENGTH, torch.device("cpu"))
    return Context(layout, Span.within(layout, plain=True), position or Position(), want=want)


@pytest.mark.parametrize("kernel", ["auto", "dense", "reference"])
@pytest.mark.parametrize("layer", [0, 3])
@pytest.mark.parametrize("n_groups", [H, G])
def test_an_attention_of_diffllama_s(n_groups: int, layer: int, kernel: str) -> None:
    transformers = pytest.importorskip("transformers")
    modeling = import_module("transformers.models.diffllama.modeling_diffllama")
    config = transformers.DiffLlamaConfig(
        hidden_size=D,
        num_attention_heads=2 * H,
        num_key_value_heads=2 * n_groups,
        head_dim=K,
        num_hidden_layers=4,
        rms_norm_eps=1e-4,
        attn_implementation="eager",
    )
    theirs = modeling.DiffLlamaAttention(deepcopy(config), layer_idx=layer)
    rotation = modeling.DiffLlamaRotaryEmbedding(deepcopy(config))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    x = torch.randn(2, LENGTH, D)
    mask = torch.full((LENGTH, LENGTH), torch.finfo(torch.float32).min).triu(1)[None, None]
    with torch.no_grad():
        rotations = rotation(x, torch.arange(LENGTH)[None])
        expected = theirs(hidden_states=x, position_embeddings=rotations, attention_mask=mask)[0]

    ours = built(layer, n_kv_heads=n_groups, kernel=kernel, norm={"kind": "rms", "epsilon": 1e-4})
    ours.load_state_dict(converted(theirs.state_dict()))
    with torch.no_grad():
        actual, _ = ours(x, context(RopeConfig().build(SHAPE, Heads(H, K))))
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.1


def converted(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """DiffLlama's weights in our order.

    Theirs has the first maps of all heads before all second ones, and likewise the halves of values; ours has what
    belongs to a head together.
    """

    def together(weight: Tensor) -> Tensor:
        return weight.view(2, -1, K, D).transpose(0, 1).reshape(-1, D)

    found = {name: value for name, value in weights.items() if name.startswith("lambda")}
    found |= {name: together(weights[f"{name[0]}_proj.weight"]) for name in ("query", "key", "value")}
    found = {name if "lambda" in name else f"{name}.weight": value for name, value in found.items()}
    return found | {"output.weight": weights["o_proj.weight"], "norm.weight": torch.ones(2 * K)}


def test_it_is_written_out_head_by_head() -> None:
    module, x = built(layer=2), torch.randn(1, LENGTH, D, generator=torch.Generator().manual_seed(3))
    y, report = module(x, context(want=frozenset({"attention"})))
    lambda_init = 0.8 - 0.6 * torch.tensor(-0.3 * 2).exp()
    share = (module.lambda_q1 @ module.lambda_k1).exp() - (module.lambda_q2 @ module.lambda_k2).exp() + lambda_init
    q, k, v = module.query(x)[0], module.key(x)[0], module.value(x)[0]
    hidden = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    out = []
    for h in range(H):
        g = h // (H // G)
        maps = []
        for i in range(2):
            mine = q[:, (2 * h + i) * K : (2 * h + i + 1) * K]
            keys = k[:, (2 * g + i) * K : (2 * g + i + 1) * K]
            maps.append((mine @ keys.T / K**0.5).masked_fill(hidden, float("-inf")).softmax(-1))
        weights = maps[0] - share * maps[1]
        torch.testing.assert_close(report.attention["weights"][0, h], weights)
        head = weights @ v[:, 2 * g * K : 2 * (g + 1) * K]
        normed = head / (head.square().mean(-1, keepdim=True) + 1e-5).sqrt() * module.norm.weight
        out.append((1 - lambda_init) * normed)
    torch.testing.assert_close(y[0], module.output(torch.cat(out, -1)), rtol=1e-4, atol=1e-5)


def test_lambda_starts_higher_in_higher_layers_or_where_it_is_told() -> None:
    assert [round(built(layer).lambda_init, 4) for layer in range(4)] == [0.2, 0.3555, 0.4707, 0.5561]
    assert built(3, lambda_init=0.25).lambda_init == 0.25
    config = ModelConfig(vocab_size=7, d_model=16, n_layers=3, attention="differential", position="none")
    model = Transformer(config)
    assert [round(block.attention.lambda_init, 4) for block in model.blocks] == [0.2, 0.3555, 0.4707]
    for block in model.blocks:  # λ_q·λ_k of vectors drawn small are near 0, and e^0 − e^0 = 0
        assert abs(block.attention._lambda().item() - block.attention.lambda_init) < 0.2


TOKENS = torch.randint(0, 11, (2, 20), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("position", ["rope", "none", "alibi", "t5"])
@pytest.mark.parametrize("kernel", ["auto", "dense", "reference"])
def test_decoding_equals_a_full_pass(position: str, kernel: str) -> None:
    attention = {"kind": "differential", "n_heads": 4, "n_kv_heads": 2, "d_head": 4, "kernel": kernel}
    config = ModelConfig(
        vocab_size=11, d_model=16, n_layers=2, max_length=32, position=position, attention=attention,
        initialisation={"std": None, "embedding_std": 1.0},
    )  # fmt: skip
    model = Transformer(config).double()
    state = model.init_state(2, 20)
    memory = state.layers[0][0]
    assert isinstance(memory, KeyValueMemory)
    assert memory.token_bytes == 2 * (2 * 2 * 4) * 8
    with torch.no_grad():
        steps = [model(part, state=state).logits for part in TOKENS.split([5, 1, 1, 3, 1, 9], dim=1)]
        torch.testing.assert_close(torch.cat(steps, 1), model(TOKENS).logits)


def test_flops_by_hand() -> None:
    attention = {"kind": "differential", "n_heads": 4, "n_kv_heads": 2, "d_head": 4}
    model = Transformer(ModelConfig(vocab_size=11, d_model=16, n_layers=1, attention=attention, feed_forward="none"))
    (layer,) = cost(model).layers
    assert layer.token_flops == 2 * 16 * (32 + 16 + 16 + 32)
    assert layer.pair_flops == 4 * 2 * (2 * 4 + 2 * 8)  # each map of each head: a score, and a value twice as wide


@pytest.mark.parametrize(
    ("options", "filled"),
    [
        ({}, (12, 12, 32)),
        ({"n_heads": 4}, (4, 4, 96)),
        ({"d_head": 16}, (24, 24, 16)),
        ({"n_kv_heads": 3}, (12, 3, 32)),
    ],
)
def test_sizes_left_out_are_filled_in(options: dict[str, int], filled: tuple[int, int, int]) -> None:
    shape = StackShape("decoder", d_model=768, n_layers=1, max_length=8)
    assert DifferentialConfig(**options).filled(shape).widths() == filled


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"n_heads": 4}, r"attention: a head is 3 wide and its two maps half of that each; choose n_heads so that"),
        ({"n_heads": 5}, r"attention: n_heads \(5\) does not divide d_model \(12\)"),
        ({"n_heads": 2, "n_kv_heads": 3}, r"attention: n_kv_heads \(3\) does not divide n_heads \(2\)"),
        ({"lambda_init": 1.0}, r"attention.*lambda_init: must be less than 1"),
    ],
)
def test_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ModelConfig(d_model=12, position="none", attention={"kind": "differential"} | options)


def test_packed_it_computes_the_same() -> None:
    model = Transformer(ModelConfig(vocab_size=11, d_model=64, n_layers=2, attention="differential"))
    with torch.no_grad():
        expected = model(TOKENS).logits
        torch.testing.assert_close(model.pack()(TOKENS).logits, expected, rtol=1e-4, atol=1e-5)
