"""Multi-head latent attention: transformers' own, what it keeps, and its two ways to compute the same."""

from copy import deepcopy
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

import sublayer as sl
from sublayer.errors import ConfigError
from sublayer.model import Layout, ModelConfig, Transformer
from sublayer.model.attention.latent import Latent, LatentConfig
from sublayer.model.attention.memory import LatentMemory
from sublayer.model.cost import cost
from sublayer.model.layout import Span
from sublayer.model.part import Heads, StackShape
from sublayer.model.position.rope import RopeConfig
from sublayer.model.sublayer import Context

LENGTH = 10
SHAPE = StackShape("decoder", d_model=48, n_layers=2, max_length=64)
SIZES = {"n_heads": 3, "d_head": 8, "d_rope": 6, "d_value": 10, "d_latent": 20}


@pytest.mark.parametrize("kernel", ["auto", "dense", "reference"])
@pytest.mark.parametrize("d_query_latent", [None, 14])
@pytest.mark.parametrize(("family", "name"), [("deepseek_v2", "DeepseekV2"), ("deepseek_v3", "DeepseekV3")])
def test_an_attention_of_deepseek_s(family: str, name: str, d_query_latent: int | None, kernel: str) -> None:
    transformers = pytest.importorskip("transformers")
    modeling = import_module(f"transformers.models.{family}.modeling_{family}")
    theirs_config = getattr(transformers, f"{name}Config")(
        hidden_size=48,
        num_attention_heads=3,
        num_key_value_heads=3,
        q_lora_rank=d_query_latent,
        kv_lora_rank=20,
        qk_nope_head_dim=8,
        qk_rope_head_dim=6,
        v_head_dim=10,
        num_hidden_layers=1,
        max_position_embeddings=64,
        attn_implementation="eager",
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    theirs = getattr(modeling, f"{name}Attention")(deepcopy(theirs_config), layer_idx=0)
    rotation = getattr(modeling, f"{name}RotaryEmbedding")(deepcopy(theirs_config))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    x = torch.randn(2, LENGTH, 48)
    mask = torch.full((LENGTH, LENGTH), torch.finfo(torch.float32).min).triu(1)[None, None]
    with torch.no_grad():
        rotations = rotation(x, torch.arange(LENGTH)[None])
        expected = theirs(hidden_states=x, position_embeddings=rotations, attention_mask=mask)[0]

    config = LatentConfig(
        **SIZES, d_query_latent=d_query_latent, kernel=kernel, norm={"kind": "rms", "epsilon": 1e-6}
    ).filled(SHAPE)
    ours = config.build(SHAPE)
    ours.load_state_dict(converted(theirs.state_dict()))
    layout = Layout().resolved(LENGTH, torch.device("cpu"))
    position = RopeConfig(layout="interleaved").build(SHAPE, Heads(3, 6))
    with torch.no_grad():
        actual, _ = ours(x, Context(layout, Span.within(layout, plain=True), position))
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.1


def converted(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """DeepSeek's weights under our names, with the matrices of both kinds that theirs hold divided."""
    names = {
        "q_proj": "query",
        "q_a_proj": "query_down",
        "q_a_layernorm": "query_norm",
        "q_b_proj": "query_up",
        "kv_a_layernorm": "latent_norm",
        "o_proj": "output",
    }
    found = {}
    for name, value in weights.items():
        part, _, rest = name.partition(".")
        if part == "kv_a_proj_with_mqa":
            found["latent.weight"], found["rotary_key.weight"] = value.split([20, 6])
        elif part == "kv_b_proj":
            found["key_up"], found["value_up"] = value.view(3, 18, 20).split([8, 10], dim=1)
        else:
            found[f"{names[part]}.{rest}"] = value
    return found


def model(position: Any = "rope", **options: Any) -> Transformer:
    config = ModelConfig(
        vocab_size=11,
        d_model=16,
        n_layers=2,
        max_length=64,
        position=position,
        attention={"kind": "latent", "n_heads": 4, "d_rope": 4, "d_latent": 10} | options,
        initialisation={"std": None, "embedding_std": 1.0},
    )
    return Transformer(config).double()


TOKENS = torch.randint(0, 11, (2, 24), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("position", ["rope", "none", "alibi", "t5", "learned"])
@pytest.mark.parametrize("d_query_latent", [None, 6])
@pytest.mark.parametrize("kernel", ["auto", "sdpa", "dense", "reference"])
def test_decoding_over_latents_equals_a_full_pass(position: str, d_query_latent: int | None, kernel: str) -> None:
    built = model(position, d_query_latent=d_query_latent, kernel=kernel)
    state = built.init_state(2, 24)
    with torch.no_grad():
        steps = [built(part, state=state).logits for part in TOKENS.split([5, 1, 1, 3, 1, 13], dim=1)]
        torch.testing.assert_close(torch.cat(steps, 1), built(TOKENS).logits)


@pytest.mark.parametrize("absorbs", [True, False])
def test_both_ways_to_attend_give_the_same(absorbs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    built = model(pattern={"kind": "window", "size": 6, "sinks": 2})
    monkeypatch.setattr(Latent, "_absorbs", lambda *_: absorbs)
    state = built.init_state(2, 24, max_rewind=2)
    with torch.no_grad():
        steps = [built(TOKENS[:, t : t + 3], state=state).logits for t in range(0, 24, 3)]
        torch.testing.assert_close(torch.cat(steps, 1), built(TOKENS).logits)


def test_a_step_never_makes_keys_of_the_cache_and_a_long_chunk_does() -> None:
    module = model().blocks[0].attention
    assert isinstance(module, Latent)
    assert all(module._absorbs(1, n_keys) for n_keys in (1, 10, 1000))
    assert module._absorbs(2, 1000)
    assert not module._absorbs(500, 1000)
    assert not module._absorbs(1000, 1000)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_token_takes_the_latent_and_the_rotated_key_and_no_more(dtype: torch.dtype) -> None:
    """(d_latent + d_rope) numbers for all heads: DeepSeek-V2, table 1."""
    state = model().float().init_state(3, 40, dtype=dtype)
    for layer in state.layers:
        memory = layer[0]
        assert isinstance(memory, LatentMemory)
        assert memory.token_bytes == (10 + 4) * dtype.itemsize
        assert memory.n_bytes == 3 * (40 + 1) * memory.token_bytes
    check = sl.check({"model": {"d_model": 512, "n_layers": 2, "attention": {"kind": "latent", "n_heads": 8}}})
    assert check.layers[0].keeps.bytes_per_token == (4 * 64 + 32) * {"float32": 4, "bfloat16": 2}[check.dtype]


def test_sizes_left_out_are_those_of_the_paper() -> None:
    config = LatentConfig(n_heads=16).filled(StackShape("decoder", d_model=2048, n_layers=1, max_length=8))
    assert config.widths() == (16, 128, 64, 128, 512)
    assert config.score_scale() == 192**-0.5


def test_flops_by_hand() -> None:
    built = model(d_query_latent=6)
    (layer, _) = cost(built).layers
    matrices = 16 * 6 + 6 * 4 * (4 + 4) + 16 * 10 + 16 * 4 + 2 * 4 * 4 * 10 + 16 * 16
    assert layer.token_flops - 2 * sum(p.numel() for p in built.blocks[0].feed_forward.parameters()) == 2 * matrices
    assert layer.pair_flops == 2 * 4 * (4 + 4 + 4)
    assert layer.decoding_pair_flops == 2 * 2 * 4 * (10 + 4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"d_rope": 3}, "rope rotates pairs of features, but it would rotate 3 of each head's 3"),
        ({"n_heads": 5}, r"attention: n_heads \(5\) does not divide d_model \(16\)"),
        ({"n_kv_heads": 2}, "unknown key 'n_kv_heads'"),
        ({"d_latent": 0}, "d_latent: must be greater than or equal to 1"),
    ],
)
def test_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        model(**options)


def test_packed_it_computes_the_same() -> None:
    built = model().float()
    with torch.no_grad():
        expected = built(TOKENS).logits
        torch.testing.assert_close(built.pack()(TOKENS).logits, expected, rtol=1e-4, atol=1e-5)
        state = built.init_state(2, 24)
        steps = [built(TOKENS[:, t : t + 1], state=state).logits for t in range(24)]
    torch.testing.assert_close(torch.cat(steps, 1), expected, rtol=1e-4, atol=1e-5)
