"""Texts to classes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sublayer.data import DataConfig, prepare
from sublayer.errors import ConfigError, DataError, RunError
from sublayer.generation import Classification, classify
from sublayer.measures.held_out import inputs_of, layout_of
from sublayer.model import Transformer

from .models import PAIR, TOKENIZER, config

TEXTS = [letter * (1 + 7 * n % 40) for n, letter in enumerate("abcdefghijklmnopqrstuvwxyz" * 3)]


def classifier(stack: str = "encoder", pooling: str = "mean", **changes: object) -> Transformer:
    head = {"kind": "classes", "classes": ["noun", "verb", "other"], "pooling": pooling}
    return Transformer(config(**{"stack": stack, "head": head, "tied_embeddings": True, **changes}), seed=3)


@pytest.mark.parametrize(("stack", "pooling"), [("encoder", "mean"), ("encoder", "first"), ("decoder", "last")])
def test_each_text_gets_what_it_gets_in_a_pass_of_its_own(stack: str, pooling: str) -> None:
    model = classifier(stack, pooling, dropout=0.3).train()
    found = classify(model, TOKENIZER, TEXTS)
    assert model.training
    model.eval()
    for text, one in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            probs_C = model(torch.tensor([TOKENIZER.encode(text)])).logits[0].softmax(-1)
        assert one.text == text
        assert list(one.probabilities) == ["noun", "verb", "other"]
        assert list(one.probabilities.values()) == pytest.approx(probs_C.tolist(), abs=1e-5)
        assert one.number == int(probs_C.argmax())
        assert str(one) == one.name == ["noun", "verb", "other"][one.number]
    assert len({round(one.probabilities["noun"], 4) for one in found}) > 20
    assert classify(model, TOKENIZER, []) == []
    alone = classify(model, TOKENIZER, TEXTS[0])
    assert isinstance(alone, Classification)
    assert alone.name == found[0].name


def test_a_pair_is_joined_as_training_joins_it(tmp_path: Path) -> None:
    rows = [{"q": f"is {n} even?", "a": "yes" * (n % 3), "label": n % 2} for n in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"kind": "labelled", "path": str(tmp_path / "pairs.jsonl"), "text_field": "q", "second_field": "a"}
    data = prepare(DataConfig(sources=source, tokenizer="bytes", sequence_length=64, objective="classify"))
    batch = data.batch(0, 0, 8)
    model = classifier(embedding={"segments": 2}).eval()
    segment_BT = [[row.index(0, 1) < place for place in range(len(row))] for row in batch.tokens_BT.tolist()]
    assert data.tokenizer.end_id == 0
    assert batch.segment_BT.masked_select(batch.valid_BT).equal(
        torch.tensor(segment_BT).long().masked_select(batch.valid_BT)
    )
    loss = model(**inputs_of(batch, model.device), targets=batch.targets_BT).loss
    loss.backward()
    assert (model.embedding.segments.weight.grad.abs().amax(1) > 0).all()
    with torch.no_grad():
        probs_BC = model(batch.tokens_BT, layout_of(batch, model.device)).logits.softmax(-1)
    end = data.tokenizer.end_id
    pairs = []
    for tokens_T in batch.tokens_BT.tolist():
        cut = tokens_T.index(end, 1)
        pairs.append((data.tokenizer.decode(tokens_T[:cut]), data.tokenizer.decode(tokens_T[cut:])))
    assert {answer for _, answer in pairs} == {"", "yes", "yesyes"}
    as_json: Any = [list(pair) for pair in pairs]
    for given in (pairs, as_json):
        found = classify(model, data.tokenizer, given)
        assert [(one.text, one.second) for one in found] == pairs
        for one, probs_C in zip(found, probs_BC, strict=True):
            assert list(one.probabilities.values()) == pytest.approx(probs_C.tolist(), abs=1e-5)
    mixed = classify(model, data.tokenizer, ["a", pairs[0], "b"])
    assert [one.second for one in mixed] == [None, pairs[0][1], None]
    assert mixed[2].probabilities == pytest.approx(classify(model, data.tokenizer, "b").probabilities)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (5, r"^to classify there is 5; give a text, or a list of texts and pairs of texts\.$"),
        (["a", 5], r"^item 2 of 2 to classify is 5; give a text, or a pair \(text, second text\)\.$"),
        ([("a", "b", "c")], r"^item 1 of 1 to classify is \('a', 'b', 'c'\); give a text, or a pair"),
        ([["a", None]], r"^item 1 of 1 to classify is \['a', None\]; give a text, or a pair"),
    ],
)
def test_what_is_no_text_is_refused(texts: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        classify(classifier(), TOKENIZER, texts)


def test_classes_without_names_have_numbers() -> None:
    model = classifier(head={"kind": "classes", "n_classes": 2})
    one = classify(model, TOKENIZER, "a")
    assert list(one.probabilities) == ["0", "1"]
    assert one.name == str(one.number)


def test_what_tells_no_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^head: a head over tokens tells no classes; train a model with head: cl"):
        classify(Transformer(config()), TOKENIZER, "a")
    with pytest.raises(ConfigError, match=r"^stack: an encoder_decoder reads two texts"):
        classify(classifier(**PAIR), TOKENIZER, "a")
    with pytest.raises(DataError, match="257 tokens, but the model only 100"):
        classify(classifier(vocab_size=100), TOKENIZER, "a")


def test_a_text_beyond_the_last_position_is_refused() -> None:
    model = classifier(position="learned", max_length=16)
    with pytest.raises(
        DataError, match=r"^text 2 of 2 has 17 tokens, but the model's learned positions end at 16; sho"
    ):
        classify(model, TOKENIZER, ["a", "a" * 16])


def test_a_broken_model_is_named_as_such() -> None:
    model = classifier()
    with torch.no_grad():
        model.embedding.weight[:] = torch.nan
    with pytest.raises(RunError, match="not finite numbers"):
        classify(model, TOKENIZER, "a")
