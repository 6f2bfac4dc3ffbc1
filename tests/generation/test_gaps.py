"""Texts with gaps."""

import pytest
import torch

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
