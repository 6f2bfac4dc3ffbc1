"""Whole decoders with experts of transformers' give the same logits, token by token as well, and learn alike."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model.attention import test_latent
from tests.model.oracles import families
from tests.model.oracles.families import apart, assert_all_count, assert_learns_alike, assert_same
from tests.model.oracles.test_decoders import OURS, VOCABULARY, Pair, by_layer, of, renamed

ROPE = {"rope_type": "default", "rope_theta": 1e4}
UNBALANCED = {"kind": "experts", "n_experts": 6, "top_k": 2, "balance": [], "expert": {"kind": "gated", "d_ff": 40}}
"""Without a loss beside that of predictions, as theirs is computed here."""


def converted(theirs: Any, **more: str) -> dict[str, Tensor]:
    """`renamed`, with each layer's router and experts."""
    weights: dict[str, Tensor] = {}
    sparse = [
        f"blocks.{n}.feed_forward." for n, layer in enumerate(theirs.model.layers) if hasattr(layer.mlp, "experts")
    ]
    for name, value in renamed(theirs, **more).items():
        if name in [f"{each}gate.weight" for each in sparse]:
            name = name.replace("gate", "router")
        name = name.replace("shared_experts.", "shared.").replace("shared_expert.", "shared.")
        name = name.replace("shared_expert_gate.", "shared_gate.")
        if name.endswith("experts.gate_up"):  # theirs are one
            gate, up = value.chunk(2, dim=1)
            weights |= {name.replace("gate_up", "gate"): gate, name.replace("gate_up", "up"): up}
        else:
            weights[name] = value
    return weights


def mixtral() -> Pair:
    """A softmax over the chosen experts' logits (Jiang et al. 2024)."""
    theirs = of("Mixtral", num_local_experts=6, num_experts_per_tok=2, rope_parameters=ROPE)
    experts = UNBALANCED | {"router": {"kind": "top_k", "scoring": "softmax_after"}}
    return families.built(converted(theirs), **OURS | {"feed_forward": experts}, tied_embeddings=False), theirs


def olmoe() -> Pair:
    """Scores that are not divided by their sum, and norms over all heads together (Muennighoff et al. 2024)."""
    theirs = of("Olmoe", num_experts=6, num_experts_per_tok=3, norm_topk_prob=False, head_dim=12)
    weights = converted(theirs, q_norm="query_norm", k_norm="key_norm")
    changes = {
        "attention": {"n_heads": 4, "n_kv_heads": 2, "d_head": 12, "qk_norm": "all_heads"},
        "feed_forward": UNBALANCED | {"top_k": 3, "router": {"kind": "top_k", "renormalise": False}},
    }
    return families.built(weights, **OURS | changes, tied_embeddings=False), theirs


def qwen2_moe() -> Pair:
    """A shared expert with a gate, wider than the others, and a dense layer among those with experts."""
    theirs = of(
        "Qwen2Moe",
        num_experts=6,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=56,
        decoder_sparse_step=2,
        head_dim=12,
    )
    changes = {
        "attention": {"n_heads": 4, "n_kv_heads": 2, "d_head": 12, "bias": {"query": True, "key": True, "value": True}},
        "feed_forward": UNBALANCED
        | {
            "expert": {"kind": "gated", "d_ff": 24},
            "shared": {"d_ff": 56, "gate": True},
            "every": 2,
            "dense": {"kind": "gated", "d_ff": 40},
        },
    }
    return families.built(converted(theirs), **OURS | changes, tied_embeddings=False), theirs


def deepseek_v3() -> Pair:
    """Sigmoids, groups, a bias that chooses and does not weight, shared experts, a dense first layer (DeepSeek-AI
    2024)."""
    sizes = {"num_attention_heads": 3, "num_key_value_heads": 3, "q_lora_rank": 14, "kv_lora_rank": 20}
    sizes |= {"qk_nope_head_dim": 8, "qk_rope_head_dim": 6, "v_head_dim": 10, "head_dim": 6, "first_k_dense_replace": 1}
    sizes |= {"n_routed_experts": 8, "num_local_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24}
    sizes |= {"n_group": 4, "topk_group": 2, "n_shared_experts": 2, "routed_scaling_factor": 1.5}
    theirs = of("DeepseekV3", **sizes, norm_topk_prob=True, num_mtp_layers=0, tie_word_embeddings=False)
    weights = by_layer(converted(theirs), theirs, test_latent.converted)
    for number, layer in enumerate(theirs.model.layers[1:], 1):
        bias = layer.mlp.gate.e_score_correction_bias
        bias.copy_(torch.randn(bias.shape, generator=torch.Generator().manual_seed(number)) / 4)
        weights[f"blocks.{number}.feed_forward.router.balance_bias"] = bias.clone()
    changes = {
        "position": {"kind": "rope", "layout": "interleaved"},
        "attention": {"kind": "latent", **test_latent.SIZES, "d_query_latent": 14},
        "feed_forward": {
            "kind": "experts",
            "n_experts": 8,
            "top_k": 3,
            "router": {"kind": "top_k", "scoring": "sigmoid", "scale": 1.5, "groups": 4, "kept_groups": 2},
            "balance": ["loss_free"],
            "expert": {"kind": "gated", "d_ff": 24},
            "shared": {"n_experts": 2},
            "first_dense": 1,
            "dense": {"kind": "gated", "d_ff": 40},
        },
        "tied_embeddings": False,
    }
    return families.built(weights, **OURS | changes), theirs


MIXTURES = [mixtral, olmoe, qwen2_moe, deepseek_v3]


@pytest.mark.parametrize("pair", MIXTURES)
def test_the_logits_of_padded_rows(pair: Callable[[], Pair]) -> None:
    model, theirs = pair()
    tokens_BT, layout = families.ragged(VOCABULARY, [13, 4, 9], left=True)
    valid_BT = layout.valid_BT
    assert valid_BT is not None
    with torch.no_grad():
        places = (valid_BT.long().cumsum(1) - 1).clamp(min=0)
        expected = theirs(tokens_BT, attention_mask=valid_BT.long(), position_ids=places).logits
    logits = model(tokens_BT, layout).logits
    assert_same(logits, expected, valid_BT)
    assert_all_count(model, logits[valid_BT], but=["key.bias"])


@pytest.mark.parametrize("pair", MIXTURES)
def test_the_logits_token_by_token_packed_as_well(pair: Callable[[], Pair]) -> None:
    model, theirs = pair()
    tokens_BT, _ = families.ragged(VOCABULARY, [11, 11], seed=2)
    with torch.no_grad():
        expected = theirs(tokens_BT).logits
        for each in (model, model.pack()):
            state = each.init_state(2, 11)
            steps = [each(tokens_BT[:, t : t + 1], state=state).logits for t in range(11)]
            assert_same(torch.cat(steps, 1), expected)


@pytest.mark.parametrize("pair", MIXTURES)
def test_the_loss_and_its_gradients(pair: Callable[[], Pair]) -> None:
    model, theirs = pair()
    tokens_BT, _ = families.ragged(VOCABULARY, [11, 11], seed=3)
    assert_learns_alike(model, theirs, tokens_BT, {}, {"input_ids": tokens_BT})
    ours = model.blocks[-2].feed_forward
    routed = theirs.model.layers[-2].mlp
    gate, up = routed.experts.gate_up_proj.grad.chunk(2, dim=1)
    expected = {"gate": gate, "up": up, "down": routed.experts.down_proj.grad}
    for name, gradient in expected.items():
        assert apart(getattr(ours.experts, name).grad, gradient) <= 1e-4
    assert apart(ours.router.weight.grad, routed.gate.weight.grad) <= 1e-4


def test_the_load_loss_is_theirs_by_top_k() -> None:
    """transformers does not divide by top_k: 2 at balance, where ours is 1.  (It pools layers; here is one.)"""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    theirs = of("Mixtral", num_local_experts=6, num_experts_per_tok=2, num_hidden_layers=1, rope_parameters=ROPE)
    router = {"kind": "top_k", "scoring": "softmax_after"}
    experts = UNBALANCED | {"router": router, "balance": [{"kind": "load", "weight": 1.0}]}
    changes = {"feed_forward": experts, "n_layers": 1, "tied_embeddings": False}
    model = families.built(converted(theirs), **OURS | changes).train()
    tokens_BT, _ = families.ragged(VOCABULARY, [11, 11], seed=3)
    logits = theirs(tokens_BT, output_router_logits=True).router_logits
    expected = load_balancing_loss_func(logits, 6, 2)
    losses = model(tokens_BT, targets=tokens_BT).losses
    (name,) = set(losses) - {"cross_entropy"}
    assert 2 * losses[name].item() == pytest.approx(expected.item(), rel=1e-5)
