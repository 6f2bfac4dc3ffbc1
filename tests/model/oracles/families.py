"""Known models, as transformers has them, composed of our parts.

Each function takes a model of theirs and gives ours with its weights.  Every parameter must find a place: what is left
over on either side is refused.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sublayer.model import Layout, ModelConfig, Transformer

PROJECTIONS = {"q_proj": "query", "k_proj": "key", "v_proj": "value"}
GATED = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
QKV = tuple(PROJECTIONS.values())


def randomised(model: nn.Module, std: float = 0.3) -> Any:
    """The model with random weights, so that all of it counts: norms about 1, all else about 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                middle = 1.0 if bool((parameter == 1).all()) else 0.0
                parameter.normal_(middle, std, generator=generator)
    return model.eval()


def weights_of(model: nn.Module, words: Mapping[str, str]) -> dict[str, Tensor]:
    """A model's parameters under our names: each of `words` replaced in turn.  Tied ones come once."""
    found = {}
    for name, value in model.named_parameters():
        for old, new in words.items():
            name = name.replace(old, new)
        found[name] = value.detach().clone()
    return found


def divided(weights: Mapping[str, Tensor], fused: str, n_heads: int) -> dict[str, Tensor]:
    """The weights with a matrix or bias that holds query, key and value of each head taken apart."""
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        if fused in name:
            each = value.unflatten(0, (n_heads, 3, -1)).unbind(1)
            found |= {name.replace(fused, part): x.flatten(0, 1) for part, x in zip(QKV, each, strict=True)}
        else:
            found[name] = value
    return found


def built(weights: Mapping[str, Tensor], **choices: Any) -> Transformer:
    """Our model with these weights."""
    model = Transformer(ModelConfig(**choices))
    model.load_state_dict(weights)
    return model.eval()


def gpt2(theirs: Any) -> Transformer:
    """Radford et al. 2019; tied or not, as theirs is."""
    config = theirs.config
    words = {"transformer.": "", "wte": "embedding", "wpe": "positions.0", "h.": "blocks.", ".attn": ".attention"}
    words |= {"ln_1": "residual.norms.0", "ln_2": "residual.norms.1", "ln_f": "final_norm", "lm_head": "head.output"}
    words |= {"mlp.c_fc": "feed_forward.up", "mlp.c_proj": "feed_forward.down", "c_proj": "output"}
    weights: dict[str, Tensor] = {}
    for name, value in weights_of(theirs, words).items():
        if "c_attn" in name:
            for part, third in zip(QKV, value.chunk(3, dim=-1), strict=True):
                weights[name.replace("c_attn", part)] = third.mT if third.dim() == 2 else third
        else:
            turned = "feed_forward" in name or ".attention.output" in name
            weights[name] = value.T if turned and value.dim() == 2 else value
    return built(
        weights,
        vocab_size=config.vocab_size,
        d_model=config.n_embd,
        n_layers=config.n_layer,
        max_length=config.n_positions,
        position="learned",
        norm="layer",
        attention={"n_heads": config.n_head, "bias": True},
        feed_forward={"kind": "dense", "activation": "gelu_tanh", "d_ff": config.n_inner, "bias": True},
        tied_embeddings=config.tie_word_embeddings,
    )


def t5(theirs: Any) -> Transformer:
    """Raffel et al. 2020; and T5 v1.1, which is gated and has an output matrix of its own (Shazeer 2020)."""
    config = theirs.config
    tied = theirs.lm_head.weight is theirs.shared.weight
    words = {"shared": "embedding", "decoder.": "", "block.": "blocks.", "final_layer_norm": "final_norm"}
    words |= {f"layer.{number}.layer_norm": f"residual.norms.{number}" for number in range(3)}
    words |= {"SelfAttention": "attention", "EncDecAttention": "cross_attention", "lm_head": "head.output"}
    words |= {".q.": ".query.", ".k.": ".key.", ".v.": ".value.", ".o.": ".output."}
    words |= {
        "DenseReluDense.": "feed_forward.",
        ".wi.": ".up.",
        ".wi_0.": ".gate.",
        ".wi_1.": ".up.",
        ".wo.": ".down.",
    }
    words |= {f"layer.{number}.": "" for number in range(3)}
    words |= {"blocks.0.attention.relative_attention_bias": "positions.0"}
    gated = {"kind": "gated", "activation": "gelu_tanh", "d_ff": config.d_ff}
    plain = {"kind": "dense", "activation": "relu", "d_ff": config.d_ff}
    return built(
        weights_of(theirs, words),
        stack="encoder_decoder",
        vocab_size=config.vocab_size,
        d_model=config.d_model,
        n_layers=config.num_decoder_layers,
        encoder={"n_layers": config.num_layers},
        position={
            "kind": "t5",
            "n_buckets": config.relative_attention_num_buckets,
            "max_distance": config.relative_attention_max_distance,
        },
        attention={"n_heads": config.num_heads, "d_head": config.d_kv, "scale": 1.0},
        feed_forward=gated if config.is_gated_act else plain,
        head={"scale": "1/sqrt_d_model"} if config.scale_decoder_outputs else {},
        tied_embeddings=tied,
    )


# ------------------------------------------------------------------------------------------------------- comparing


def ragged(vocab_size: int, lengths: list[int], left: bool = False, seed: int = 0) -> tuple[Tensor, Layout]:
    """Random tokens, padded to the longest row at their end, or at their beginning."""
    layout = Layout.ragged(lengths)
    assert layout.valid_BT is not None
    valid_BT = layout.valid_BT.flip(1) if left else layout.valid_BT
    tokens_BT = torch.randint(2, vocab_size, valid_BT.shape, generator=torch.Generator().manual_seed(seed))
    return tokens_BT.masked_fill(~valid_BT, 1), Layout(valid_BT=valid_BT)


def assert_same(actual: Tensor, expected: Tensor, valid_BT: Tensor | None = None) -> None:
    """No logit of a token differs by more than 1e-5 of the greatest, and they are no constants."""
    if valid_BT is not None:
        actual, expected = actual[valid_BT], expected[valid_BT]
    assert expected.std() > 0.05
    assert apart(actual, expected) <= 1e-5


def apart(actual: Tensor, expected: Tensor) -> float:
    """The greatest difference, in proportion to the greatest number."""
    assert actual.shape == expected.shape
    return float((actual - expected).detach().abs().max() / expected.detach().abs().max())


def assert_learns_alike(
    model: Transformer, theirs: Any, tokens_BT: Tensor, given: Mapping[str, Any], theirs_given: Mapping[str, Any]
) -> None:
    """The loss of the same targets, some of them none, and what comes down to the embeddings, are the same."""
    targets_BT = tokens_BT.roll(-1, dims=1).masked_fill(tokens_BT % 5 == 0, -100)
    expected = F.cross_entropy(theirs(**theirs_given).logits.flatten(0, 1), targets_BT.flatten())
    expected.backward()
    loss = model(tokens_BT, targets=targets_BT, **given).loss
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert apart(model.embedding.weight.grad, theirs.get_input_embeddings().weight.grad) <= 1e-4


def assert_all_count(model: Transformer, logits: Tensor, but: Iterable[str] = ()) -> None:
    """Every parameter that is not named moves the logits, so that an equal result says something about it."""
    (logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    moving = {name: float(parameter.grad.abs().max()) for name, parameter in model.named_parameters()}
    assert {name for name, most in moving.items() if most < 1e-4 and not name.endswith(tuple(but))} == set()
