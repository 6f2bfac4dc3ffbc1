"""Tiny models and a bytes tokenizer."""

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from sublayer.data.tokenizer import BytesConfig
from sublayer.model import Encoded, Layout, ModelConfig, Source, Transformer
from sublayer.model.state import State
from sublayer.model.transformer import Output

TOKENIZER = BytesConfig().build(lambda: iter(()))
WINDOW = {"n_heads": 2, "pattern": {"kind": "window", "size": 5}}
# Each decodes in another way: plain caches, ring buffers, both, positions in every place.
MODELS: dict[str, dict[str, Any]] = {
    "rope": {"position": "rope"},
    "alibi": {"position": "alibi"},
    "learned": {"position": "learned", "max_length": 96},
    "sinusoidal": {"position": "sinusoidal"},
    "no position": {"position": "none"},
    "window": {"position": "rope", "attention": WINDOW},
    "window, alibi, grouped": {"position": "alibi", "attention": {**WINDOW, "n_kv_heads": 1}},
    "window, learned": {"position": "learned", "max_length": 96, "attention": WINDOW},
    "window and full": {"layers": ({}, {"attention": WINDOW})},
}
PAIR: dict[str, Any] = {"stack": "encoder_decoder", "encoder": {"n_layers": 3}}
PAIRS: dict[str, dict[str, Any]] = {
    "rope": PAIR,
    "learned": PAIR | {"position": "learned", "max_length": 96},
    "t5": PAIR | {"position": "t5"},
    "window": PAIR | {"attention": WINDOW, "cross_attention": {"n_heads": 4}},
}
"""Each of these has an encoder beside it."""
LIKELY = {"std": None, "embedding_std": 1.0}
"""Initial values so large that a random model's outputs are neither all alike nor one token for ever."""


@cache
def tiny(name: str = "rope") -> Transformer:
    return Transformer(config(**MODELS[name]), seed=3)


def pair(name: str = "rope") -> Transformer:
    """An encoder-decoder that heeds its source, which one with random weights hardly does."""
    model = Transformer(config(**PAIRS[name]), seed=3)
    with torch.no_grad():
        for block in model.blocks:
            block.cross_attention.output.weight *= 3
    return model


def config(**changes: Any) -> ModelConfig:
    defaults: dict[str, Any] = {
        "vocab_size": TOKENIZER.vocab_size,
        "d_model": 16,
        "n_layers": 2,
        "max_length": 32,
        "attention": {"n_heads": 2},
        "feed_forward": {"kind": "dense", "d_ff": 32},
        "tied_embeddings": False,
        "initialisation": LIKELY,
    }
    return ModelConfig(**(defaults | changes))


class Scripted(Transformer):
    """Says one text whatever it reads: having read n tokens of a row, it expects the text's n-th and no other.

    So a prompt of n letters goes on from the text's n-th letter on, and prompts of unequal length end one by one.

    Attributes:
        batches: rows in each pass.
        modes: whether each pass was in training mode, and whether it kept what gradients need.
    """

    def __init__(self, text: str | bytes, **changes: Any) -> None:
        super().__init__(config(**changes))
        told = text.encode() if isinstance(text, str) else text
        # The last says the end for ever.
        self.script = [TOKENIZER.end_id, *(BYTE_ID[byte] for byte in told), TOKENIZER.end_id]
        self.batches: list[int] = []
        self.modes: list[tuple[bool, bool]] = []

    def forward(
        self,
        tokens_BT: Tensor,
        layout: Layout | None = None,
        *,
        source: Source | Encoded | Tensor | None = None,
        state: State | None = None,
        targets: Tensor | None = None,
        logits_at: Tensor | None = None,
        want: Iterable[str] = (),
    ) -> Output:
        assert state is not None
        read_BT = state.length_B[:, None] + 1 + torch.arange(tokens_BT.shape[1])
        logits = super().forward(tokens_BT, layout, source=source, state=state).logits
        assert logits is not None
        self.batches.append(len(tokens_BT))
        self.modes.append((self.training, not torch.is_inference_mode_enabled()))
        says_BT = torch.tensor(self.script)[read_BT.clamp(max=len(self.script) - 1)]
        said = torch.full_like(logits, -30.0).scatter_(2, says_BT[..., None], 30.0)
        return Output(said if logits_at is None else said[torch.arange(len(said)), logits_at][:, None])


BYTE_ID = [TOKENIZER.vocab_size] * 256
for index in range(TOKENIZER.vocab_size):
    if index != TOKENIZER.end_id:
        BYTE_ID[TOKENIZER.decode_bytes([index])[0]] = index
