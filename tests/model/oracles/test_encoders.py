"""BERT, as transformers has it, gives the same scores of hidden tokens and of classes."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

from sublayer.model import Layout, Transformer
from tests.model.oracles import families
from tests.model.oracles.families import assert_all_count, assert_same, randomised

VOCABULARY = 30
STANDSTILL = ["key.bias"]  # what it adds to all scores of a query alike, the softmax cancels


def bert(name: str, head: dict[str, Any]) -> tuple[Transformer, Any]:
    """Devlin et al. 2018."""
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=32,
        type_vocab_size=3,
        num_labels=5,
        attn_implementation="eager",
    )
    theirs = randomised(getattr(transformers, f"BertFor{name}")(config))
    words = {"bert.": "", "embeddings.word_embeddings": "embedding", "embeddings.position_embeddings": "positions.0"}
    words |= {"embeddings.token_type_embeddings": "embedding.segments", "embeddings.LayerNorm": "embedding.norm"}
    words |= {"encoder.layer.": "blocks.", "attention.self": "attention", "attention.output.dense": "attention.output"}
    words |= {"attention.output.LayerNorm": "residual.norms.0", "intermediate.dense": "feed_forward.up"}
    words |= {".output.dense": ".feed_forward.down", ".output.LayerNorm": ".residual.norms.1"}
    words |= {"cls.predictions.transform.dense": "head.transform", "cls.predictions.transform.LayerNorm": "head.norm"}
    words |= {"cls.predictions.bias": "head.bias", "pooler.dense": "head.hidden", "classifier": "head.output"}
    norm = {"kind": "layer", "epsilon": 1e-12}
    model = families.built(
        families.weights_of(theirs, words),
        stack="encoder",
        vocab_size=VOCABULARY,
        d_model=48,
        n_layers=2,
        max_length=32,
        position="learned",
        attention={"n_heads": 4, "bias": True},
        feed_forward={"kind": "dense", "activation": "gelu", "d_ff": 40, "bias": True},
        residual="post_norm",
        norm=norm,
        embedding={"norm": norm, "segments": 3},
        head=head,
    )
    return model, theirs


def pairs_of_texts() -> tuple[Tensor, Layout, dict[str, Tensor]]:
    """A ragged batch of segments, as we are given it and as they are."""
    tokens_BT, layout = families.ragged(VOCABULARY, [12, 5, 9])
    assert layout.valid_BT is not None
    segment_BT = (torch.arange(12) // torch.tensor([[5], [3], [4]])).clamp(max=2)
    given = {"attention_mask": layout.valid_BT.long(), "token_type_ids": segment_BT}
    return tokens_BT, Layout(valid_BT=layout.valid_BT, segment_BT=segment_BT), given


def test_hidden_tokens() -> None:
    model, theirs = bert("MaskedLM", {"transform": "gelu", "bias": True})
    tokens_BT, layout, given = pairs_of_texts()
    labels_BT = torch.where(torch.rand(3, 12, generator=torch.Generator().manual_seed(3)) < 0.3, tokens_BT, -100)
    labels_BT = labels_BT.masked_fill(~layout.valid_BT, -100)
    with torch.no_grad():
        expected = theirs(tokens_BT, **given, labels=labels_BT)
    output = model(tokens_BT, layout, targets=labels_BT, want=["logits"])
    assert_same(output.logits, expected.logits, layout.valid_BT)
    torch.testing.assert_close(output.loss, expected.loss, rtol=1e-5, atol=1e-5)
    assert_all_count(model, output.logits[layout.valid_BT], but=STANDSTILL)


def test_without_segments_all_is_in_the_first() -> None:
    model, theirs = bert("MaskedLM", {"transform": "gelu", "bias": True})
    tokens_BT, _, _ = pairs_of_texts()
    with torch.no_grad():
        assert_same(model(tokens_BT).logits, theirs(tokens_BT).logits)


def test_classes() -> None:
    head = {"kind": "classes", "n_classes": 5, "pooling": "first", "hidden": True}
    model, theirs = bert("SequenceClassification", head)
    tokens_BT, layout, given = pairs_of_texts()
    classes_B = torch.tensor([4, 0, 2])
    with torch.no_grad():
        expected = theirs(tokens_BT, **given, labels=classes_B)
    output = model(tokens_BT, layout, targets=classes_B, want=["logits"])
    assert_same(output.logits, expected.logits)
    assert output.loss.item() == pytest.approx(F.cross_entropy(expected.logits, classes_B).item(), rel=1e-5)
    assert_all_count(model, output.logits, but=STANDSTILL)
