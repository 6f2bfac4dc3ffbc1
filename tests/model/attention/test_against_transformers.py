"""Multi-head attention with its options equals the attentions of known models, as transformers has them.

The weights of a small random module of theirs are copied into ours.
"""

from copy import deepcopy
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sublayer.model import Layout
from sublayer.model.attention.multi_head import MultiHeadConfig
from sublayer.model.layout import Span
from sublayer.model.part import Heads, StackShape
from sublayer.model.position.rope import RopeConfig
from sublayer.model.sublayer import Context

transformers = pytest.importorskip("transformers")

LENGTH = 11
SHAPE = StackShape("decoder", d_model=48, n_layers=2, max_length=64)
SIZES = {
    "hidden_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
    "vocab_size": 30,
    "intermediate_size": 40,
    "pad_token_id": 0,
    "attn_implementation": "eager",
}
OURS = {"n_heads": 4, "n_kv_heads": 2, "d_head": 16}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}


def modules(family: str, name: str, **options: Any) -> tuple[nn.Module, nn.Module]:
    """An attention of transformers' with random weights, and what computes its rotations."""
    config = getattr(transformers, f"{name}Config")(**deepcopy(SIZES | options))  # which they change
    modeling = import_module(f"transformers.models.{family}.modeling_{family}")
    attention = getattr(modeling, f"{name}Attention")(config, layer_idx=0)
    rotation = getattr(modeling, f"{name}RotaryEmbedding")(config)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    return attention, rotation


def theirs(attention: nn.Module, rotation: nn.Module, x: Tensor, window: int | None) -> Tensor:
    positions = torch.arange(LENGTH)[None]
    offsets = positions.T - positions
    seen = (offsets >= 0) & (offsets < (window or LENGTH))
    mask = torch.zeros(LENGTH, LENGTH).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
    kinds = {"layer_type": attention.layer_type} if "layer_type" in rotation.forward.__code__.co_varnames else {}
    rotations = rotation(x, positions, **kinds)
    with torch.no_grad():
        return attention(hidden_states=x, position_embeddings=rotations, attention_mask=mask)[0]


def ours(config: MultiHeadConfig, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    config = config.filled(SHAPE)
    module = config.build(SHAPE)
    module.load_state_dict(weights)
    layout = Layout().resolved(LENGTH, torch.device("cpu"))
    position = RopeConfig().build(SHAPE, Heads(4, 16))
    with torch.no_grad():
        return module(x, Context(layout, Span.within(layout, plain=True), position))[0]


def weights_of(attention: nn.Module) -> dict[str, Tensor]:
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "output", "sinks": "sink"}
    names |= {"q_norm": "query_norm", "k_norm": "key_norm"}
    found = {}
    for name, value in attention.state_dict().items():
        head, dot, rest = name.partition(".")
        found[names[head] + dot + rest] = value.clone()
    return found


def halved(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Qwen3-Next's query matrix holds each head's gate behind its query, and its norms store γ − 1."""
    query, gate = weights["query.weight"].view(4, 2, 16, 48).unbind(1)
    changed = {"query.weight": query.reshape(64, 48), "gate.weight": gate.reshape(64, 48)}
    changed |= {name: weights[name] + 1 for name in ("query_norm.weight", "key_norm.weight")}
    return weights | changed


FAMILIES = [
    ("llama", "Llama", {}, {}),
    ("llama", "Llama", {"num_key_value_heads": 4}, {"n_kv_heads": 4}),
    ("qwen2", "Qwen2", {}, {"bias": {"query": True, "key": True, "value": True}}),
    ("qwen3", "Qwen3", {"rms_norm_eps": 1e-3}, {"qk_norm": {"kind": "head", "norm": {"kind": "rms", "epsilon": 1e-3}}}),
    ("olmo2", "Olmo2", {"rms_norm_eps": 1e-6}, {"qk_norm": "all_heads"}),
    (
        "gemma2",
        "Gemma2",
        {"query_pre_attn_scalar": 30, "attn_logit_softcapping": 2.0, "sliding_window": 4},
        {"scale": 30**-0.5, "soft_cap": 2.0, "pattern": {"kind": "window", "size": 4}},
    ),
    ("gpt_oss", "GptOss", {"attention_bias": True, "rope_parameters": ROPE}, {"bias": True, "sink": "learned"}),
    (
        "gpt_oss",
        "GptOss",
        {"attention_bias": True, "rope_parameters": ROPE, "sliding_window": 3},
        {"bias": True, "sink": "learned", "pattern": {"kind": "window", "size": 3}},
    ),
    (
        "qwen3_next",
        "Qwen3Next",
        {"rope_parameters": ROPE | {"partial_rotary_factor": 1.0}},
        {"qk_norm": True, "gate": "element"},
    ),
]


@pytest.mark.parametrize("kernel", ["auto", "dense"])
@pytest.mark.parametrize(("family", "name", "options", "changes"), FAMILIES)
def test_an_attention_of_theirs(
    family: str, name: str, options: dict[str, Any], changes: dict[str, Any], kernel: str
) -> None:
    attention, rotation = modules(family, name, **options)
    config = MultiHeadConfig(**OURS | changes, kernel=kernel)
    weights = weights_of(attention)
    x = torch.randn(2, LENGTH, 48, generator=torch.Generator().manual_seed(1))
    expected = theirs(attention, rotation, x, getattr(config.pattern, "size", None))
    actual = ours(config, halved(weights) if family == "qwen3_next" else weights, x)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert expected.abs().mean() > 0.1
