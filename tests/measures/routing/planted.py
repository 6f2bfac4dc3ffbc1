"""Decisions made by hand, and models whose routers decide as they are told."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sublayer.data import Batch
from sublayer.data.packing import NOT_SCORED
from sublayer.measures.routing import Decisions, Reading
from sublayer.measures.routing.decisions import Tokens
from sublayer.model import ModelConfig, Transformer

V = 32


def tokens(id_N: NDArray[Any], domain_N: NDArray[Any] | None = None, document_N: NDArray[Any] | None = None) -> Tokens:
    domain_N = np.zeros(len(id_N), dtype=np.int64) if domain_N is None else domain_N
    document_N = np.arange(len(id_N)) if document_N is None else document_N
    names = tuple("abcdefgh"[: int(domain_N.max()) + 1])
    return Tokens(names, np.asarray(id_N), np.asarray(domain_N), np.asarray(document_N), np.asarray(document_N))


def decided(expert_NK: NDArray[Any], n_experts: int, about: Tokens | None = None) -> Decisions:
    """Decisions for experts that are named for each token."""
    chosen_NE = np.zeros((len(expert_NK), n_experts), dtype=bool)
    chosen_NE[np.arange(len(expert_NK))[:, None], expert_NK] = True
    about = about or tokens(np.zeros(len(expert_NK), dtype=np.int64))
    packed = np.packbits(chosen_NE, axis=1)
    return Decisions("layers.0.feed_forward", "top_k", "token", n_experts, expert_NK.shape[1], about, packed)


def drawn(n_tokens: int, n_experts: int, top_k: int, seed: int = 0) -> NDArray[Any]:
    """Experts drawn evenly, [N, K]."""
    return np.random.default_rng(seed).random((n_tokens, n_experts)).argsort(1)[:, :top_k]


def model(experts: dict[str, Any] | None = None, **more: Any) -> Transformer:
    options = {"n_experts": 4, "top_k": 2, "expert": {"kind": "dense", "d_ff": 8}, **(experts or {})}
    values = {"vocab_size": V, "d_model": 8, "n_layers": 2, "max_length": 16, "attention": {"n_heads": 2}, **more}
    return Transformer(ModelConfig.parse({**values, "feed_forward": {"kind": "experts", **options}}), seed=1).eval()


def reading(domain: str, rows: Any, valid: Any = None, document: Any = None, first: int = 0) -> Reading:
    tokens_BT = torch.as_tensor(rows, dtype=torch.int64)
    valid_BT = None if valid is None else torch.as_tensor(valid, dtype=torch.bool)
    document_BT = None if document is None else torch.as_tensor(document, dtype=torch.int64)
    batch = Batch(tokens_BT, torch.full_like(tokens_BT, NOT_SCORED), None, document_BT, valid_BT)
    return Reading(domain, batch, first + np.arange(len(tokens_BT)))
