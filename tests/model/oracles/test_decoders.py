"""Whole decoders of transformers' give the same logits: with padding, and token by token."""

from collections.abc import Callable
from inspect import signature
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from sublayer.model import Transformer
from tests.model.attention import test_differential, test_latent
from tests.model.oracles import families
from tests.model.oracles.families import (
    GATED,
    PROJECTIONS,
    assert_all_count,
    assert_learns_alike,
    assert_same,
    divided,
    randomised,
)

VOCABULARY = 30
SIZES = {
    "hidden_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_hidden_layers": 3,
    "max_position_embeddings": 64,
    "vocab_size": VOCABULARY,
    "intermediate_size": 40,
    "rms_norm_eps": 1e-6,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "attn_implementation": "eager",
}
OURS = {
    "vocab_size": VOCABULARY,
    "d_model": 48,
    "n_layers": 3,
    "max_length": 64,
    "attention": {"n_heads": 4, "n_kv_heads": 2, "d_head": 16},
    "feed_forward": {"kind": "gated", "d_ff": 40},
}
BIASED = {"kind": "dense", "activation": "gelu_tanh", "d_ff": 40, "bias": True}
Pair = tuple[Transformer, Any]


def of(name: str, **options: Any) -> Any:
    """A model of theirs with random weights."""
    config = getattr(transformers, f"{name}Config")(**SIZES | options)
    return randomised(getattr(transformers, f"{name}ForCausalLM")(config))


def renamed(theirs: Any, **more: str) -> dict[str, Tensor]:
    """The weights of a model that is built as Llama is."""
    words = {"model.": "", "embed_tokens": "embedding", "lm_head": "head.output", "layers": "blocks"}
    words |= {"self_attn": "attention", **PROJECTIONS, "o_proj": "output", "mlp": "feed_forward", **GATED}
    words |= {"input_layernorm": "residual.norms.0", "post_attention_layernorm": "residual.norms.1"}
    weights = families.weights_of(theirs, words | more)
    return weights | {"final_norm.weight": weights.pop("norm.weight")}


def gpt2() -> Pair:
    theirs = randomised(
        transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                n_embd=48,
                n_head=4,
                n_layer=3,
                n_positions=64,
                n_inner=40,
                vocab_size=VOCABULARY,
                attn_implementation="eager",
            )
        )
    )
    return families.gpt2(theirs), theirs


def llama() -> Pair:
    theirs = of("Llama", tie_word_embeddings=False)
    return families.built(renamed(theirs), **OURS, tied_embeddings=False), theirs


def qwen3() -> Pair:
    theirs = of("Qwen3", tie_word_embeddings=True)
    weights = renamed(theirs, q_norm="query_norm", k_norm="key_norm")
    return families.built(weights, **OURS | {"attention": OURS["attention"] | {"qk_norm": True}}), theirs


def cohere() -> Pair:
    """Sublayers side by side after one norm that has no shift, pairs interleaved, logits scaled (Command R)."""
    theirs = of("Cohere", logit_scale=0.25, rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    changes = {
        "position": {"kind": "rope", "layout": "interleaved", "theta": 5e5},
        "norm": {"kind": "layer", "bias": False},
        "residual": "parallel",
        "head": {"scale": 0.25},
    }
    return families.built(renamed(theirs), **OURS | changes), theirs


def gemma2() -> Pair:
    """Norms on both sides, every other layer with a window, and caps on scores and logits (Gemma Team 2024)."""
    theirs = of(
        "Gemma2",
        query_pre_attn_scalar=30,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
        sliding_window=4,
        hidden_activation="gelu_pytorch_tanh",
    )
    assert theirs.config.layer_types == ["sliding_attention", "full_attention", "sliding_attention"]
    norms = {"pre_feedforward_layernorm": "residual.norms.1", "post_feedforward_layernorm": "residual.output_norms.1"}
    weights = renamed(theirs, post_attention_layernorm="residual.output_norms.0", **norms)
    weights = {name: value + 1 if "norm" in name else value for name, value in weights.items()}
    changes = {
        "attention": OURS["attention"] | {"scale": 30**-0.5, "soft_cap": 2.0},
        "layers": [{"attention": {"pattern": {"kind": "window", "size": 4}}}, {}],
        "feed_forward": {"kind": "gated", "activation": "gelu_tanh", "d_ff": 40},
        "residual": "sandwich",
        "embedding": {"scale": "sqrt_d_model"},
        "head": {"soft_cap": 3.0},
    }
    return families.built(weights, **OURS | changes), theirs


def olmo2() -> Pair:
    """Norms on what a sublayer writes alone, and on the queries and keys of all heads together (OLMo Team 2024)."""
    theirs = of("Olmo2")
    norms = {"post_feedforward_layernorm": "residual.output_norms.1", "q_norm": "query_norm", "k_norm": "key_norm"}
    weights = renamed(theirs, post_attention_layernorm="residual.output_norms.0", **norms)
    changes = {"attention": OURS["attention"] | {"qk_norm": "all_heads"}, "residual": "res_post_norm"}
    return families.built(weights, **OURS | changes, tied_embeddings=False), theirs


def bloom() -> Pair:
    """ALiBi, here of six heads, and normalised embeddings (Le Scao et al. 2022)."""
    theirs = of("Bloom", n_head=6, n_layer=3, num_attention_heads=6)
    words = {"transformer.h.": "blocks.", "transformer.": "", "ln_f": "final_norm", "self_attention": "attention"}
    words |= {"word_embeddings_layernorm": "embedding.norm", "word_embeddings": "embedding"}
    words |= {"mlp.dense_h_to_4h": "feed_forward.up", "mlp.dense_4h_to_h": "feed_forward.down"}
    words |= {"attention.dense": "attention.output"}
    words |= {"input_layernorm": "residual.norms.0", "post_attention_layernorm": "residual.norms.1"}
    weights = divided(families.weights_of(theirs, words), "query_key_value", 6)
    changes = {
        "position": "alibi",
        "norm": "layer",
        "attention": {"n_heads": 6, "bias": True},
        "feed_forward": BIASED | {"d_ff": None},
        "embedding": {"norm": "layer"},
    }
    return families.built(weights, **OURS | changes), theirs


def gpt_neox() -> Pair:
    """Sublayers side by side, each with a norm, and a quarter of each head rotated (Black et al. 2022)."""
    theirs = of("GPTNeoX", head_dim=12, rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.34})
    words = {"gpt_neox.": "", "embed_in": "embedding", "layers": "blocks", "attention.dense": "attention.output"}
    words |= {"input_layernorm": "residual.norms.0", "post_attention_layernorm": "residual.norms.1"}
    words |= {"mlp.dense_h_to_4h": "feed_forward.up", "mlp.dense_4h_to_h": "feed_forward.down"}
    words |= {"final_layer_norm": "final_norm", "lm_head": "head.output"}
    weights = divided(families.weights_of(theirs, words), "query_key_value", 4)
    changes = {
        "position": {"kind": "rope", "fraction": 0.34},
        "norm": "layer",
        "attention": {"n_heads": 4, "bias": True},
        "feed_forward": BIASED | {"activation": "gelu"},
        "residual": {"kind": "parallel", "shared_norm": False},
        "tied_embeddings": False,
    }
    return families.built(weights, **OURS | changes), theirs


def gpt_j() -> Pair:
    """Sublayers side by side after one norm, pairs interleaved, biases in half of it (Wang and Komatsuzaki 2021)."""
    sizes = {"n_embd": 48, "n_head": 4, "n_layer": 3, "n_positions": 64, "n_inner": 40, "rotary_dim": 6}
    theirs = of("GPTJ", **sizes, tie_word_embeddings=False)
    words = {"transformer.": "", "wte": "embedding", "h.": "blocks.", "attn": "attention", "ln_f": "final_norm"}
    words |= PROJECTIONS | {"out_proj": "output", "mlp.fc_in": "feed_forward.up", "mlp.fc_out": "feed_forward.down"}
    words |= {"ln_1": "residual.norms.0", "lm_head.weight": "head.output.weight", "lm_head.bias": "head.bias"}
    changes = {
        "position": {"kind": "rope", "layout": "interleaved", "fraction": 0.5},
        "norm": "layer",
        "attention": {"n_heads": 4},
        "feed_forward": BIASED,
        "residual": "parallel",
        "head": {"bias": True},
        "tied_embeddings": False,
    }
    return families.built(families.weights_of(theirs, words), **OURS | changes), theirs


def deepseek_v3() -> Pair:
    """Latent attention (DeepSeek-AI 2024), with dense feed-forwards in all layers."""
    sizes = {"num_attention_heads": 3, "num_key_value_heads": 3, "q_lora_rank": 14, "kv_lora_rank": 20}
    sizes |= {"qk_nope_head_dim": 8, "qk_rope_head_dim": 6, "v_head_dim": 10, "head_dim": 6, "first_k_dense_replace": 3}
    theirs = of("DeepseekV3", **sizes, num_mtp_layers=0, tie_word_embeddings=False)
    weights = by_layer(renamed(theirs), theirs, test_latent.converted)
    changes = {
        "position": {"kind": "rope", "layout": "interleaved"},
        "attention": {"kind": "latent", **test_latent.SIZES, "d_query_latent": 14},
        "tied_embeddings": False,
    }
    return families.built(weights, **OURS | changes), theirs


def diffllama() -> Pair:
    """Differential attention (Ye et al. 2024)."""
    sizes = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": test_differential.K}
    theirs = of("DiffLlama", **sizes, tie_word_embeddings=False)
    weights = by_layer(renamed(theirs), theirs, test_differential.converted)
    ours = {"n_heads": 4, "n_kv_heads": 2, "d_head": test_differential.K, "norm": {"kind": "rms", "epsilon": 1e-6}}
    changes = {"attention": {"kind": "differential", **ours}, "tied_embeddings": False}
    return families.built(weights, **OURS | changes), theirs


def by_layer(
    weights: dict[str, Tensor], theirs: Any, converted: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The weights with those of each layer's attention converted."""
    found = {name: value for name, value in weights.items() if ".attention." not in name}
    for number, layer in enumerate(theirs.model.layers):
        part = {name: value.detach().clone() for name, value in layer.self_attn.named_parameters()}
        found |= {f"blocks.{number}.attention.{name}": value for name, value in converted(part).items()}
    return found


DECODERS = [gpt2, llama, qwen3, cohere, gemma2, olmo2, bloom, gpt_neox, gpt_j, deepseek_v3, diffllama]


@pytest.mark.parametrize("pair", DECODERS)
def test_the_logits_of_padded_rows(pair: Callable[[], Pair]) -> None:
    model, theirs = pair()
    tokens_BT, layout = families.ragged(VOCABULARY, [13, 4, 9], left=True)
    valid_BT = layout.valid_BT
    assert valid_BT is not None
    options = {"attention_mask": valid_BT.long(), "position_ids": (valid_BT.long().cumsum(1) - 1).clamp(min=0)}
    known = signature(theirs.forward).parameters
    with torch.no_grad():
        expected = theirs(tokens_BT, **{name: value for name, value in options.items() if name in known}).logits
    logits = model(tokens_BT, layout).logits
    assert_same(logits, expected, valid_BT)
    # What a key's bias adds to all scores of a query alike, the softmax cancels.
    assert_all_count(model, logits[valid_BT], but=["key.bias"])


@pytest.mark.parametrize("pair", DECODERS)
def test_the_logits_token_by_token(pair: Callable[[], Pair]) -> None:
    model, theirs = pair()
    tokens_BT, _ = families.ragged(VOCABULARY, [11, 11], seed=2)
    state = model.init_state(2, 11)
    with torch.no_grad():
        expected = theirs(tokens_BT).logits
        steps = [model(tokens_BT[:, t : t + 1], state=state).logits for t in range(11)]
    assert_same(torch.cat(steps, 1), expected)


@pytest.mark.parametrize("pair", DECODERS)
def test_the_loss_and_its_gradient(pair: Callable[[], Pair]) -> None:
    model, theirs = pair()
    tokens_BT, _ = families.ragged(VOCABULARY, [11, 11], seed=3)
    assert_learns_alike(model, theirs, tokens_BT, {}, {"input_ids": tokens_BT})
