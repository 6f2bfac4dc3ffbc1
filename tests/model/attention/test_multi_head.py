"""Multi-head attention against loops over heads, with its sizes filled in."""

import math

import pytest
import torch
from torch import Tensor

from sublayer.errors import ConfigError
from sublayer.model import Layout, ModelConfig, Transformer
from sublayer.model.attention.multi_head import MultiHead
from sublayer.model.layout import Span
from sublayer.model.position import Position
from sublayer.model.sublayer import Context


def attention(**options: object) -> MultiHead:
    config = ModelConfig(vocab_size=5, d_model=12, n_layers=1, position="none", attention=options)
    model = Transformer(config)
    module = model.blocks[0].attention
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module


def context(n_tokens: int, want: frozenset[str] = frozenset()) -> Context:
    layout = Layout().resolved(n_tokens, torch.device("cpu"))
    return Context(layout, Span.within(layout, True), Position(), want=want)


def by_loops(module: MultiHead, x: Tensor) -> Tensor:
    """Causal attention of one row, head by head and query by query."""
    q, k, v = (linear(x) for linear in (module.query, module.key, module.value))
    width, group = module.d_head, module.n_heads // module.n_kv_heads
    out = torch.zeros(x.shape[0], module.n_heads * width)
    for h in range(module.n_heads):
        mine, shared = slice(h * width, (h + 1) * width), slice(h // group * width, (h // group + 1) * width)
        for i in range(x.shape[0]):
            scores = torch.stack([q[i, mine] @ k[j, shared] / math.sqrt(width) for j in range(i + 1)])
            weights = scores.softmax(0)
            out[i, mine] = sum(weights[j] * v[j, shared] for j in range(i + 1))
    return module.output(out)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kernel", ["reference", "sdpa"])
@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
def test_heads_read_the_keys_and_values_of_their_group(n_kv_heads: int, kernel: str, bias: bool) -> None:
    module = attention(n_heads=4, n_kv_heads=n_kv_heads, kernel=kernel, bias=bias)
    assert (module.query.bias is not None) == bias
    x = torch.randn(2, 5, 12)
    y, _ = module(x, context(5))
    for row in range(2):
        assert torch.allclose(y[row], by_loops(module, x[row]), atol=1e-4)


def test_grouped_query_attention_is_multi_head_attention_with_repeated_key_value_heads() -> None:
    grouped, full = attention(n_heads=4, n_kv_heads=2), attention(n_heads=4)
    weights = grouped.state_dict()
    for name in ("key.weight", "value.weight"):
        weights[name] = weights[name].view(2, 3, 12).repeat_interleave(2, dim=0).reshape(12, 12)
    full.load_state_dict(weights)
    x = torch.randn(1, 6, 12)
    assert torch.allclose(grouped(x, context(6))[0], full(x, context(6))[0], atol=1e-5)


@pytest.mark.parametrize(
    ("d_model", "options", "filled"),
    [
        (384, {}, (6, 6, 64)),
        (100, {}, (1, 1, 100)),
        (12, {"n_heads": 3}, (3, 3, 4)),
        (12, {"n_heads": 4, "n_kv_heads": 1}, (4, 1, 3)),
        (12, {"d_head": 6}, (2, 2, 6)),
        (12, {"n_heads": 5, "d_head": 7}, (5, 5, 7)),
    ],
)
def test_sizes_left_out_are_filled_in(d_model: int, options: dict[str, int], filled: tuple[int, int, int]) -> None:
    config = ModelConfig(d_model=d_model, position="none", attention=options)
    layer = config.resolve()[0].attention
    assert (layer.n_heads, layer.n_kv_heads, layer.d_head) == filled


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"n_heads": 5}, r"attention: n_heads \(5\) does not divide d_model \(12\)"),
        ({"n_heads": 4, "n_kv_heads": 3}, r"attention: n_kv_heads \(3\) does not divide n_heads \(4\)"),
        ({"d_head": 5}, r"attention: d_head \(5\) does not divide d_model \(12\); set n_heads as well"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options: dict[str, int], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ModelConfig(d_model=12, attention=options)


def test_wanted_weights_are_reported_by_layer_and_sum_to_one() -> None:
    config = ModelConfig(
        vocab_size=5,
        d_model=12,
        n_layers=2,
        attention={"n_heads": 3, "n_kv_heads": 1, "kernel": "sdpa"},
        layers=[{}, {"attention": {"pattern": {"kind": "window", "size": 2}}}],
    )
    model = Transformer(config)
    tokens = torch.randint(0, 5, (2, 6))
    weights = model(tokens, want=["attention"]).report.attention
    assert list(weights) == ["layers.0.attention.weights", "layers.1.attention.weights"]
    for each in weights.values():
        assert each.shape == (2, 3, 6, 6)
        assert torch.allclose(each.sum(-1), torch.ones(2, 3, 6))
        assert (each.triu(1) == 0).all()
    assert (weights["layers.1.attention.weights"].tril(-2) == 0).all()
    assert (weights["layers.0.attention.weights"].tril(-2)[..., 2:, :].sum(-1) > 0).all()
    assert torch.allclose(model(tokens, want=["attention"]).logits, model(tokens).logits, atol=1e-6)
    assert not model(tokens).report.attention


def test_weights_of_padding_are_zero() -> None:
    model = Transformer(ModelConfig(vocab_size=5, d_model=12, n_layers=1, attention={"n_heads": 3}, stack="encoder"))
    report = model(torch.randint(0, 5, (2, 6)), Layout.ragged([6, 4]), want=["attention"]).report
    weights = report.attention["layers.0.attention.weights"]
    assert (weights[1, ..., 4:] == 0).all()
    assert torch.allclose(weights[1, :, :4].sum(-1), torch.ones(3, 4))


def test_something_else_wanted_is_refused() -> None:
    model = Transformer(ModelConfig(vocab_size=5, d_model=12, n_layers=1, attention={"n_heads": 3}))
    with pytest.raises(ValueError, match=r"want: \['gradients'\] cannot be returned; choose from \['attention'"):
        model(torch.zeros(1, 2, dtype=torch.int64), want=["gradients"])
