"""How many tokens an expert takes.

Shapes: N tokens, E experts, M assignments.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from sublayer.config import Config, Positive
from sublayer.model.experts.routing import Routing


class CapacityConfig(Config):
    """An expert takes so many tokens, and those beyond are dropped: only their residual stream goes on (Fedus et al.
    2022, equation 3; Lepikhin et al. 2021, algorithm 1)."""

    factor: Positive = 1.25
    """Tokens that an expert takes, ⌈factor · top_k · tokens / n_experts⌉, over those that it would have if all had as
    many; n_experts / top_k and more drop none."""
    evaluation_factor: Positive | None = None
    """The same outside of training; left out, nothing is dropped there."""
    drop: Literal["last", "least_weight"] = "last"
    """Which of an expert's tokens are dropped: those that stand last in the batch, or those that weigh least with it
    (Riquelme et al. 2021, section 2.4)."""

    def build(self) -> "Capacity":
        return Capacity(self.factor, self.evaluation_factor, self.drop)


@dataclass(frozen=True)
class Capacity:
    """Drops assignments beyond what experts take."""

    factor: float
    evaluation_factor: float | None
    drop: Literal["last", "least_weight"]

    def in_use(self, training: bool) -> float | None:
        """The factor; None without a limit."""
        return self.factor if training else self.evaluation_factor

    def kept(
        self, routing: Routing, n_experts: int, valid_N: Tensor | None, training: bool
    ) -> tuple[Routing, Tensor | None]:
        """The assignments that are kept, and how many of tokens that are no padding were dropped.

        Those that are dropped weigh nothing, and as many as can be known before looking are left out.
        """
        n_assignments, factor = len(routing.expert_M), self.in_use(training)
        if factor is None:
            return routing, None
        valid_M = torch.ones_like(routing.expert_M, dtype=torch.bool) if valid_N is None else valid_N[routing.token_M]
        first_M = _first(routing, valid_M, self.drop)
        limit = (factor / n_experts * valid_M.sum()).ceil()
        kept_M = valid_M & (_rank(routing.expert_M, first_M, n_experts) < limit)
        dropped = (valid_M & ~kept_M).sum()
        weight_M = routing.weight_M.where(kept_M, routing.weight_M.new_zeros(()))
        # Kept ones to the front, as many as there can be; what is left over weighs nothing.
        most = min(n_assignments, n_experts * math.ceil(factor * n_assignments / n_experts))
        chosen = (~kept_M).long().argsort(stable=True)[:most].sort().values
        fewer = len(chosen) < n_assignments
        kept = replace(
            routing,
            token_M=routing.token_M[chosen],
            expert_M=routing.expert_M[chosen],
            weight_M=weight_M[chosen],
            top_k=None if fewer else routing.top_k,
        )
        return kept, dropped


def _first(routing: Routing, valid_M: Tensor, drop: Literal["last", "least_weight"]) -> Tensor:
    """The assignments in the order in which experts take them, padding behind."""
    order_M = torch.arange(len(valid_M), device=valid_M.device)
    if drop == "least_weight":
        order_M = routing.weight_M.detach().argsort(descending=True, stable=True)
    return order_M[(~valid_M[order_M]).long().argsort(stable=True)]


def _rank(expert_M: Tensor, first_M: Tensor, n_experts: int) -> Tensor:
    """How many of its expert's assignments come before each one, in the order `first_M`."""
    expert_of_M = expert_M[first_M]
    by_expert_M = expert_of_M.argsort(stable=True)
    count_E = expert_M.new_zeros(n_experts).scatter_add(0, expert_M, torch.ones_like(expert_M))
    begin_E = count_E.cumsum(0) - count_E
    place_M = torch.arange(len(expert_M), device=expert_M.device)
    rank_M = place_M - begin_E[expert_of_M[by_expert_M]]
    return torch.empty_like(rank_M).scatter(0, first_M[by_expert_M], rank_M)
