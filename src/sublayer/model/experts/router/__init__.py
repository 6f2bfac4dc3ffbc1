"""Routers, one a file."""

from sublayer.model.experts.router import expert_choice, hash, noisy_top_k, soft, top_k
from sublayer.model.experts.router.base import Router, RouterChoice, RouterConfig, Team

__all__ = [
    "Router",
    "RouterChoice",
    "RouterConfig",
    "Team",
    "expert_choice",
    "hash",
    "noisy_top_k",
    "soft",
    "top_k",
]
