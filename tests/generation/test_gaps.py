"""Texts with gaps."""

from typing import Any

import pytest
import tokenizers
import torch

from sublayer.data import Tokenizer
from sublayer.errors import ConfigError, DataError
from sublayer.generation import Filled, fill_masks
from sublayer.model import Transformer

from .models import TOKENIZER, config

MASKED = TOKENIZER.with_special(["<mask>"])
MASK = MASKED.special_id(["<mask>"])


def encoder(**changes: object) -> Transformer:
    return Transformer(config(**{"stack": "encoder", "vocab_size": MASKED.vocab_size + 5, **changes}), seed=3)


def test_each_gap_gets_its_likeliest_tokens_with_all_gaps_open() -> None:
    model = encoder(dropout=0.3).train()
    filled = fill_masks(model, MASKED, "a[MASK]bc<mask><mask>", n_best=3)
    assert model.training
    model.eval()
    ids = [*MASKED.encode("a"), MASK, *MASKED.encode("bc", start=False), MASK, MASK]
    with torch.no_grad():
        probs_TV = model(torch.tensor([ids])).logits[0, :, : MASKED.vocab_size].softmax(-1)
    places = [place for place, token in enumerate(ids) if token == MASK]
    for place, guesses in zip(places, filled.gaps, strict=True):
        best = probs_TV[place].topk(3)
        assert [guess.token for guess in guesses] == best.indices.tolist()
        assert [guess.probability for guess in guesses] == pytest.approx(best.values.tolist(), abs=1e-6)
        assert [guess.text for guess in guesses] == [MASKED.decode([token]) for token in best.indices.tolist()]
        ids[place] = guesses[0].token
    assert isinstance(filled, Filled)
    assert str(filled) == filled.text == MASKED.decode(ids)


def test_several_texts_are_filled_as_each_alone() -> None:
    texts = ["a[MASK]", "bcd<mask>efgh", "[MASK]"]
    found = fill_masks(encoder(), MASKED, texts, n_best=2)
    assert [str(one) for one in found] == [fill_masks(encoder(), MASKED, text, n_best=2).text for text in texts]
    assert fill_masks(encoder(), MASKED, []) == []
    with pytest.raises(DataError, match=r"^text 2 of 2 has no gap; write <mask> where"):
        fill_masks(encoder(), MASKED, ["a[MASK]", "b"])


def test_names_of_other_special_tokens_are_text() -> None:
    (guess,), *_ = fill_masks(encoder(max_length=64), MASKED, "x <|endoftext|> y [MASK]", n_best=1).gaps
    filled = fill_masks(encoder(max_length=64), MASKED, "x <|endoftext|> y [MASK]", n_best=1)
    assert filled.text == f"x <|endoftext|> y {guess.text}"


@pytest.mark.parametrize(("lstrip", "rstrip"), [(False, False), (True, False), (False, True), (True, True)])
def test_a_mask_token_takes_the_spaces_that_it_is_made_for(lstrip: bool, rstrip: bool) -> None:
    core = tokenizers.Tokenizer.from_str(TOKENIZER._core.to_str())
    core.add_special_tokens([tokenizers.AddedToken("<mask>", lstrip=lstrip, rstrip=rstrip, normalized=False)])
    tokenizer = Tokenizer(core)
    model, read = encoder(vocab_size=tokenizer.vocab_size), []
    text = "<mask> a  b [MASK]  <mask>c [MASK]"
    with model.register_forward_pre_hook(lambda module, given: read.append(given[0])):
        fill_masks(model, tokenizer, text)
    expected = tokenizer.encode_batch([text.replace("[MASK]", "<mask>")], special=True)
    assert [tokens.tolist() for tokens in read] == [expected]


@pytest.mark.parametrize(
    ("text", "n_best", "message"),
    [
        ("a[MASK]", 0, r"^n_best: must be an integer of at least 1, not 0\.$"),
        ("a[MASK]", -1, r"^n_best: must be an integer of at least 1, not -1\.$"),
        ("a[MASK]", 1.5, r"^n_best: must be an integer of at least 1, not 1\.5\.$"),
        (5, 1, r"^to fill there is 5; give a text, or a list of texts\.$"),
        (["a[MASK]", 5], 1, r"^item 2 of 2 to fill is 5; give a text, or a list of texts\.$"),
    ],
)
def test_what_cannot_be_asked_is_refused(text: Any, n_best: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fill_masks(encoder(), MASKED, text, n_best)


def test_what_has_no_gaps_to_fill_is_refused() -> None:
    with pytest.raises(DataError, match=r"^the text has no gap; write <mask> where a token is left out\.$"):
        fill_masks(encoder(), MASKED, "abc")
    with pytest.raises(DataError, match=r"^the tokenizer has no token <mask> or \[MASK\], so the model knows no gaps"):
        fill_masks(encoder(), TOKENIZER, "a[MASK]")
    for changes in ({"stack": "decoder"}, {"head": {"kind": "classes", "n_classes": 2}, "tied_embeddings": True}):
        with pytest.raises(ConfigError, match=r"^stack: gaps are filled by an encoder with a head over tokens"):
            fill_masks(encoder(**changes), MASKED, "a[MASK]")
    with pytest.raises(DataError, match=r"^the text has 17 tokens, but the model's learned positions end at 16"):
        fill_masks(encoder(position="learned", max_length=16), MASKED, "a" * 15 + "[MASK]")
