"""Whole encoder-decoders of transformers' give the same logits: with padding on both sides, and token by token."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from sublayer.model import Source, Transformer
from tests.model.oracles import families
from tests.model.oracles.families import (
    PROJECTIONS,
    assert_all_count,
    assert_learns_alike,
    assert_same,
    randomised,
)

VOCABULARY = 30
Pair = tuple[Transformer, Any]


def t5(gated: bool = False) -> Pair:
    config = transformers.T5Config(
        d_model=48,
        d_kv=10,
        d_ff=40,
        num_layers=3,
        num_decoder_layers=2,
        num_heads=4,
        vocab_size=VOCABULARY,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=12,
        feed_forward_proj="gated-gelu" if gated else "relu",
        tie_word_embeddings=not gated,
    )
    theirs = transformers.T5ForConditionalGeneration(config)
    if gated:
        theirs.lm_head.weight = nn.Parameter(torch.empty(VOCABULARY, 48))
    theirs = randomised(theirs, std=0.15)  # scores are not divided by the root of a width, so weights are small
    return families.t5(theirs), theirs


def t5_v1_1() -> Pair:
    return t5(gated=True)


def bart_like(name: str, options: dict[str, Any], **choices: Any) -> Pair:
    config = getattr(transformers, f"{name}Config")(
        vocab_size=VOCABULARY,
        d_model=48,
        encoder_layers=3,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=40,
        decoder_ffn_dim=40,
        max_position_embeddings=32,
        pad_token_id=1,
        decoder_start_token_id=0,
        eos_token_id=0,
        forced_eos_token_id=None,
        attn_implementation="eager",
        **options,
    )
    kind = "MTModel" if name == "Marian" else "ForConditionalGeneration"
    theirs = randomised(getattr(transformers, f"{name}{kind}")(config))
    theirs.final_logits_bias.normal_(generator=torch.Generator().manual_seed(4))
    words = {"model.shared": "embedding", "model.encoder.": "encoder.", "model.decoder.": "", "layers.": "blocks."}
    words |= {"self_attn_layer_norm": "residual.norms.0", "encoder_attn_layer_norm": "residual.norms.1"}
    words |= {"self_attn": "attention", "encoder_attn": "cross_attention", **PROJECTIONS, "out_proj": "output"}
    words |= {"fc1": "feed_forward.up", "fc2": "feed_forward.down", "embed_positions": "positions.0"}
    words |= {"encoder.layer_norm": "encoder.final_norm"}
    weights = {"head.bias": theirs.final_logits_bias[0].clone()}
    for found, value in families.weights_of(theirs, words).items():
        before, _, after = found.partition("final_layer_norm")
        number = 1 if before.startswith("encoder.") else 2  # in the decoder it is behind the cross-attention
        weights[f"{before}residual.norms.{number}{after}" if after else found] = value
    if "layer_norm.weight" in weights:
        weights |= {f"final_norm.{kind}": weights.pop(f"layer_norm.{kind}") for kind in ("weight", "bias")}
    if "learned" in choices.values():  # whose first two rows they never read
        weights |= {name: value[2:] for name, value in weights.items() if "positions" in name}
    else:
        weights = {name: value for name, value in weights.items() if "positions" not in name}
    shared = {name for name in weights if name.endswith(("layernorm_embedding.weight", "layernorm_embedding.bias"))}
    weights |= {f"embedding.norm.{name.rpartition('.')[2]}": weights.pop(name) for name in sorted(shared)}
    model = families.built(
        weights,
        **{
            "stack": "encoder_decoder",
            "vocab_size": VOCABULARY,
            "d_model": 48,
            "n_layers": 2,
            "encoder": {"n_layers": 3},
            "max_length": 32,
            "attention": {"n_heads": 4, "bias": True},
            "norm": "layer",
            "head": {"bias": True},
            **choices,
        },
    )
    return model, theirs


def feed_forward(activation: str) -> dict[str, Any]:
    return {"kind": "dense", "activation": activation, "d_ff": 40, "bias": True}


def bart() -> Pair:
    """Lewis et al. 2019.  We have one norm of the embeddings for both halves; their two are made equal here."""
    choices = {"position": "learned", "residual": "post_norm", "feed_forward": feed_forward("gelu")}
    model, theirs = bart_like("Bart", {}, embedding={"norm": "layer"}, **choices)
    halves = theirs.model.encoder.layernorm_embedding, theirs.model.decoder.layernorm_embedding
    for norm in halves:
        norm.load_state_dict(model.embedding.norm.state_dict())
    return model, theirs


def sinusoidal(name: str, activation: str, residual: str) -> Pair:
    """Their sines stand before all cosines and ours are interleaved, which their table is made to be as well."""
    model, theirs = bart_like(
        name,
        {"scale_embedding": True, "activation_function": activation},
        position={"kind": "sinusoidal", "amplitude": 1.0},
        embedding={"scale": "sqrt_d_model"},
        feed_forward=feed_forward({"swish": "silu"}.get(activation, activation)),
        residual=residual,
    )
    for half in (theirs.model.encoder, theirs.model.decoder):
        table = half.embed_positions.weight.data
        table.copy_(torch.stack(table.chunk(2, dim=1), dim=-1).flatten(1).clone())
    return model, theirs


def marian() -> Pair:
    """Junczys-Dowmunt et al. 2018: the original Transformer."""
    return sinusoidal("Marian", "swish", "post_norm")


def pegasus() -> Pair:
    """Zhang et al. 2019."""
    return sinusoidal("Pegasus", "relu", "pre_norm")


FAMILIES = [t5, t5_v1_1, bart, marian, pegasus]


@pytest.mark.parametrize("pair", FAMILIES)
def test_the_logits_of_padded_rows(pair: Callable[[], Pair]) -> None:
    model, theirs = pair()
    source_BS, source = families.ragged(VOCABULARY, [17, 6, 12])
    tokens_BT, layout = families.ragged(VOCABULARY, [8, 11, 3], seed=1)
    with torch.no_grad():
        expected = theirs(
            source_BS,
            attention_mask=source.valid_BT.long(),
            decoder_input_ids=tokens_BT,
            decoder_attention_mask=layout.valid_BT.long(),
        ).logits
    logits = model(tokens_BT, layout, source=Source(source_BS, source)).logits
    assert_same(logits, expected, layout.valid_BT)
    # What a key's bias adds to all scores of a query alike, the softmax cancels.
    assert_all_count(model, logits[layout.valid_BT], but=["key.bias"])


@pytest.mark.parametrize("pair", FAMILIES)
def test_the_logits_token_by_token(pair: Callable[[], Pair]) -> None:
    model, theirs = pair()
    source_BS, source = families.ragged(VOCABULARY, [17, 6])
    tokens_BT, _ = families.ragged(VOCABULARY, [9, 9], seed=1)
    state = model.init_state(2, 9)
    with torch.no_grad():
        given = {"attention_mask": source.valid_BT.long(), "decoder_input_ids": tokens_BT}
        expected = theirs(source_BS, **given).logits
        steps = [model(tokens_BT[:, :1], state=state, source=Source(source_BS, source)).logits]
        steps += [model(tokens_BT[:, t : t + 1], state=state).logits for t in range(1, 9)]
    assert_same(torch.cat(steps, 1), expected)


@pytest.mark.parametrize("pair", FAMILIES)
def test_the_loss_and_its_gradient(pair: Callable[[], Pair]) -> None:
    model, theirs = pair()
    source_BS, source = families.ragged(VOCABULARY, [17, 6])
    tokens_BT, _ = families.ragged(VOCABULARY, [9, 9], seed=3)
    given = {"source": Source(source_BS, source)}
    theirs_given = {"input_ids": source_BS, "attention_mask": source.valid_BT.long(), "decoder_input_ids": tokens_BT}
    assert_learns_alike(model, theirs, tokens_BT, given, theirs_given)
