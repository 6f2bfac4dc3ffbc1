"""Saved and loaded, a model gives the same logits, bit for bit."""

import random
import tempfile
from functools import cache
from pathlib import Path

import torch

from sublayer.checkpoint import load_model, save_model
from sublayer.data import Tokenizer
from sublayer.data.tokenizer import TOKENIZERS
from tests.properties.composition import random_tokens
from tests.properties.statement import Subject, statement


@cache
def tokenizer() -> Tokenizer:
    built: Tokenizer = TOKENIZERS.parse("bytes").build(lambda: iter(()))
    return built


@statement(share=0.1)
def what_was_saved_is_loaded_bit_for_bit(subject: Subject, dice: random.Random) -> None:
    wide = Subject(subject.config.model_copy(update={"vocab_size": tokenizer().vocab_size}))
    model = wide.model.to(dice.choice([torch.float32, torch.bfloat16]))
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder) / "model", model, tokenizer())
        loaded, _ = load_model(Path(folder) / "model")
    assert loaded.config == wide.config
    tokens, source = random_tokens(1, 2, 7), wide.source(2)
    with torch.no_grad():
        assert torch.equal(loaded(tokens, source=source).logits, model(tokens, source=source).logits)
