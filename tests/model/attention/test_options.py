"""Multi-head attention's options: what they compute, what they add to the model, and what is refused."""

import pytest
import torch

import sublayer as sl
from sublayer.errors import ConfigError
from sublayer.model import ModelConfig, Transformer
from sublayer.model.attention.multi_head import MultiHead, MultiHeadConfig


def model(**attention: object) -> Transformer:
    config = ModelConfig(
        vocab_size=11, d_model=12, n_layers=1, attention={"n_heads": 4, "n_kv_heads": 2} | attention, position="alibi"
    )
    built = Transformer(config)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.5 * torch.randn(parameter.shape)
    return built.double()


def attention_of(built: Transformer) -> MultiHead:
    module = built.blocks[0].attention
    assert isinstance(module, MultiHead)
    return module


TOKENS = torch.randint(0, 11, (2, 7), generator=torch.Generator().manual_seed(0))


def shapes(**attention: object) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in attention_of(model(**attention)).named_parameters()}


def test_without_options_there_are_four_matrices() -> None:
    matrices = {"query.weight": (12, 12), "key.weight": (6, 12), "value.weight": (6, 12), "output.weight": (12, 12)}
    assert shapes() == matrices
    assert shapes(qk_norm=False, bias=False, soft_cap=None, sink="off_by_one", scale=0.1) == matrices


@pytest.mark.parametrize(
    ("options", "added"),
    [
        ({"bias": True}, {"query.bias": (12,), "key.bias": (6,), "value.bias": (6,), "output.bias": (12,)}),
        ({"bias": {"query": True, "output": True}}, {"query.bias": (12,), "output.bias": (12,)}),
        ({"qk_norm": True}, {"query_norm.weight": (3,), "key_norm.weight": (3,)}),
        ({"qk_norm": "all_heads"}, {"query_norm.weight": (12,), "key_norm.weight": (6,)}),
        (
            {"qk_norm": {"kind": "head", "norm": "layer"}},
            {f"{side}_norm.{name}": (3,) for side in ("query", "key") for name in ("weight", "bias")},
        ),
        ({"sink": "learned"}, {"sink": (4,)}),
        ({"gate": "head"}, {"gate.weight": (4, 12)}),
        ({"gate": "element"}, {"gate.weight": (12, 12)}),
    ],
)
def test_what_an_option_adds(options: dict[str, object], added: dict[str, tuple[int, ...]]) -> None:
    assert shapes(**options) == shapes() | added


@pytest.mark.parametrize("gate", ["head", "element"])
def test_a_gate_multiplies_what_the_heads_have_read(gate: str) -> None:
    built = model(gate=gate)
    module = attention_of(built)
    seen: dict[str, torch.Tensor] = {}
    module.output.register_forward_pre_hook(lambda _, inputs: seen.update(gated=inputs[0]))
    module.query.register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0]))
    built(TOKENS)
    share = torch.sigmoid(seen["x"] @ module.gate.weight.T)
    gated = seen["gated"]
    joined, module.gate = module.gate, None
    built(TOKENS)
    plain = seen["gated"]
    assert joined.weight.shape[0] == {"head": 4, "element": 12}[gate]
    torch.testing.assert_close(gated, plain * (share.repeat_interleave(3, dim=-1) if gate == "head" else share))


def test_a_scale_is_a_factor_of_the_queries() -> None:
    scaled, plain = model(scale=0.25), model(scale=1.0)
    with torch.no_grad():
        attention_of(plain).query.weight.mul_(0.25)
    torch.testing.assert_close(scaled(TOKENS).logits, plain(TOKENS).logits)
    usual = model(scale=3**-0.5)
    torch.testing.assert_close(usual(TOKENS).logits, model()(TOKENS).logits)


def test_normalised_queries_and_keys_do_not_grow_with_their_matrices() -> None:
    built = model(qk_norm={"kind": "head", "norm": {"kind": "rms", "epsilon": 1e-12}})
    before = built(TOKENS).logits
    with torch.no_grad():
        attention_of(built).query.weight.mul_(7)
        attention_of(built).key.weight.mul_(0.1)
    torch.testing.assert_close(built(TOKENS).logits, before)


def test_a_learned_sink_starts_as_the_softmax_off_by_one() -> None:
    config = {"vocab_size": 11, "d_model": 12, "n_layers": 2, "position": "none"}
    learned = Transformer(ModelConfig(**config, attention={"n_heads": 4, "sink": "learned"}))
    fixed = Transformer(ModelConfig(**config, attention={"n_heads": 4, "sink": "off_by_one"}))
    plain = Transformer(ModelConfig(**config, attention={"n_heads": 4}))
    torch.testing.assert_close(learned(TOKENS).logits, fixed(TOKENS).logits, rtol=0, atol=1e-6)
    assert not torch.allclose(learned(TOKENS).logits, plain(TOKENS).logits, atol=1e-4)


@pytest.mark.parametrize(
    "options", [{"bias": {"query": True, "value": True}}, {"gate": "element", "bias": {"key": True}}, {"gate": "head"}]
)
def test_projections_are_packed_with_some_biases_or_a_gate(options: dict[str, object]) -> None:
    config = ModelConfig(
        vocab_size=11, d_model=64, n_layers=1, attention={"n_heads": 4} | options, tied_embeddings=False
    )
    built = Transformer(config)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
        expected = built(TOKENS).logits
        weights = {name: value.clone() for name, value in built.state_dict().items()}
        built.pack()
        assert attention_of(built).joined is not None
        torch.testing.assert_close(built(TOKENS).logits, expected, rtol=1e-5, atol=1e-5)
        assert {name: value.tolist() for name, value in built.state_dict().items()} == {
            name: value.tolist() for name, value in weights.items()
        }
        assert torch.equal(built.unpack()(TOKENS).logits, expected)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"soft_cap": 50.0, "kernel": "sdpa"},
            "^attention: the kernel 'sdpa' cannot carry soft_cap: it has no",
        ),
        ({"soft_cap": 0.0}, r"soft_cap: must be greater than 0"),
        ({"scale": -1.0}, r"scale: must be greater than 0"),
        ({"bias": {"keys": True}}, r"bias: unknown key 'keys'; did you mean 'key'"),
        ({"bias": 3}, r"bias"),
        ({"qk_norm": "heads"}, r"qk_norm: 'heads' is not a qk_norm; did you mean 'head'"),
        ({"sink": "token"}, r"sink: must be 'none', 'learned' or 'off_by_one'"),
        ({"gate": True}, r"gate: must be 'none', 'head' or 'element'"),
    ],
)
def test_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        ModelConfig(d_model=12, position="none", attention={"n_heads": 4} | options)
    assert "\n" not in str(caught.value)


def test_a_layer_changes_part_of_an_option() -> None:
    config = ModelConfig(
        d_model=12,
        n_layers=2,
        attention={"n_heads": 2, "qk_norm": {"kind": "head", "norm": {"kind": "rms", "epsilon": 0.5}}, "soft_cap": 9.0},
        layers=[{}, {"attention": {"qk_norm": {"norm": {"epsilon": 0.25}}, "soft_cap": None}}],
    )
    first, second = (layer.attention for layer in config.resolve())
    assert (first.qk_norm.norm.epsilon, first.soft_cap) == (0.5, 9.0)
    assert (second.qk_norm.norm.epsilon, second.soft_cap) == (0.25, None)
    assert MultiHeadConfig.parse(second.tree()) == second


def test_check_names_the_kernel_that_carries_the_options() -> None:
    layer = sl.check({"model": {"d_model": 64, "n_layers": 1, "attention": {"n_heads": 2, "soft_cap": 9.0}}}).layers[0]
    for kernel in (layer.training_kernel, layer.decoding_kernel):
        assert kernel.kernel == "dense"
    assert "sdpa passed over: it has no soft cap on scores" in layer.decoding_kernel.why
