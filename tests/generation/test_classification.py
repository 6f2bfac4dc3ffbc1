"""Texts to classes."""

import pytest
import torch

from sublayer.errors import ConfigError, DataError, RunError
from sublayer.generation import Classification, classify
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
