"""Small models with experts."""

from typing import Any

import torch
from torch import Tensor

from sublayer.model import ModelConfig, Transformer
from sublayer.model.experts import Mixture
from sublayer.model.experts.router import Router

VOCAB_SIZE = 50


def config(stack: str = "decoder", n_layers: int = 2, **feed_forward: Any) -> ModelConfig:
    return ModelConfig.parse(
        {
            "stack": stack,
            "vocab_size": VOCAB_SIZE,
            "d_model": 32,
            "n_layers": n_layers,
            "max_length": 64,
            "attention": {"n_heads": 4},
            "feed_forward": {"kind": "experts", **feed_forward},
            "initialisation": {"std": None, "embedding_std": 1.0},
        }
    )


def model(stack: str = "decoder", seed: int = 0, n_layers: int = 2, **feed_forward: Any) -> Transformer:
    """In training mode."""
    return Transformer(config(stack, n_layers, **feed_forward), seed).train()


def mixture(transformer: Transformer, layer: int = 0) -> Mixture:
    box = transformer.get_submodule(f"blocks.{layer}.feed_forward")
    assert isinstance(box, Mixture)
    return box


def router(transformer: Transformer, layer: int = 0) -> Router:
    return mixture(transformer, layer).router


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(0, VOCAB_SIZE, shape, generator=torch.Generator().manual_seed(seed))
