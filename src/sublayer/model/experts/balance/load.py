"""The load-balancing loss.

Shapes: B rows, T tokens, N = B·T, E experts.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from sublayer.config import Positive
from sublayer.model.experts.balance.base import BalanceConfig, Sums
from sublayer.model.experts.routing import Places, Routing, summed
from sublayer.model.sublayer import Scope


@BalanceConfig.registry.register
class LoadConfig(BalanceConfig):
    """The share of tokens that an expert gets times its mean probability, summed: 1 when balanced, n_experts when one
    expert gets all (of one each).

    α·E·Σᵢ fᵢ·Pᵢ with fᵢ = countᵢ / (k·T).  Hugging Face's does not divide by k: its weight is this one's over k.
    """

    paper: ClassVar[str] = (
        "Fedus et al. 2022, equations 4 to 6; Lepikhin et al. 2021; global: Qiu et al. 2025; by sequence: "
        "DeepSeek-AI 2024, equations 17 to 20"
    )

    kind: Literal["load"] = "load"
    weight: Positive = 0.01
    """α."""
    scope: Literal["micro_batch", "global_batch", "sequence"] = "micro_batch"
    """What is to be balanced: what each rank computes in one pass; all tokens of a step, whose shares f are summed over
    micro-batches and ranks (with several micro-batches, a pass without gradients counts them first); or each row by
    itself."""

    def check(self, n_experts: int, top_k: int) -> None:
        if top_k >= n_experts:
            raise ValueError(f"every token goes to all {n_experts} experts, so their load is equal; leave load out")

    @property
    def label(self) -> str:
        return {"micro_batch": "load", "global_batch": "global_load", "sequence": "sequence_load"}[self.scope]

    @property
    def meant_for(self) -> Scope:
        return "global_batch" if self.scope == "global_batch" else "micro_batch"

    def sums(self, routing: Routing, places: Places, n_experts: int) -> Sums:
        assert routing.probability_NE is not None
        if self.scope == "sequence":
            return {"rows": _by_row(routing, routing.probability_NE, places, n_experts)}
        return {"probability": summed(routing.probability_NE, places.valid_N)}

    def loss(self, sums: Sums, load_E: Tensor, n_tokens: Tensor) -> Tensor:
        if self.scope == "sequence":
            return self.weight * sums["rows"] / n_tokens.clamp(min=1)
        probability_E = sums["probability"]
        share_E = load_E.to(probability_E.dtype) / load_E.sum().clamp(min=1)
        return self.weight * len(share_E) * (share_E * probability_E).sum() / n_tokens.clamp(min=1)


def _by_row(routing: Routing, probability_NE: Tensor, places: Places, n_experts: int) -> Tensor:
    """Σ over rows of tokens · E · Σᵢ fᵢ·Pᵢ, each row's own f and P."""
    n_rows, length = places.shape
    valid_N = places.valid_N
    one_M = (
        torch.ones_like(routing.weight_M) if valid_N is None else valid_N[routing.token_M].to(routing.weight_M.dtype)
    )
    load_R = one_M.new_zeros(n_rows * n_experts)
    load_BE = load_R.scatter_add(0, routing.token_M // length * n_experts + routing.expert_M, one_M).view(n_rows, -1)
    share_BE = load_BE.detach() / load_BE.sum(1, keepdim=True).clamp(min=1)
    if valid_N is not None:
        probability_NE = probability_NE.where(valid_N[:, None], probability_NE.new_zeros(()))
    # A row's P is a mean over its tokens, and the row counts as often as it has tokens.
    return n_experts * (share_BE * probability_NE.view(n_rows, length, -1).sum(1)).sum()
