"""How many tokens an expert takes.

Shapes: N tokens, E experts, M assignments.
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal, TypeVar

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
        evaluation_factor = None if self.evaluation_factor is None else _fraction(self.evaluation_factor)
        return Capacity(_fraction(self.factor), evaluation_factor, self.drop)


Ratio = tuple[int, int]
"""Numerator and denominator."""


@dataclass(frozen=True)
class Capacity:
    """Drops assignments beyond what experts take."""

    factor: Ratio
    evaluation_factor: Ratio | None
    drop: Literal["last", "least_weight"]

    def in_use(self, training: bool) -> Ratio | None:
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
        limit = _taken(valid_M.sum(), factor, n_experts)
        kept_M = valid_M & (_rank(routing.expert_M, first_M, n_experts) < limit)
        dropped = (valid_M & ~kept_M).sum()
        weight_M = routing.weight_M.where(kept_M, routing.weight_M.new_zeros(()))
        # Kept ones to the front, as many as there can be; what is left over weighs nothing.
        most = min(n_assignments, n_experts * _taken(n_assignments, factor, n_experts))
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


Number = TypeVar("Number", int, Tensor)


def _taken(n_assignments: Number, factor: Ratio, n_experts: int) -> Number:
    """⌈factor · assignments / experts⌉, in whole numbers: rounded, 0.3 · 100 / 2 is more than 15."""
    return -(-n_assignments * factor[0] // (factor[1] * n_experts))


def _fraction(factor: float) -> Ratio:
    """The number as it was written: 0.3 is 3/10, and 2.3333333333333335 is 7/3."""
    fraction = Fraction(str(min(factor, MOST_FACTOR))).limit_denominator(MOST_DENOMINATOR)
    return max(fraction, Fraction(1, MOST_DENOMINATOR)).as_integer_ratio()


MOST_DENOMINATOR, MOST_FACTOR = 10**6, 1024
"""Products with numbers of tokens fit into 64 bits; and a factor of the number of experts limits nothing any more."""


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
