"""How many experts' weights a decoding step reads.

Each text of a batch sends one token, so B texts need the experts of B tokens.  Of tokens drawn from those that were
read, without putting back, the expected number of different experts is Σ_e 1 − C(N−n_e, B)/C(N, B), for n_e of the N
tokens with expert e; with an even load and independent draws it is E(1 − (1 − k/E)^B).

Shapes: E experts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import lgamma

import numpy as np

from sublayer.measures.routing.decisions import Decisions

BATCHES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class DecodeStep:
    """Experts that a decoding step reads, on average.

    Attributes:
        batch: texts at once.
        experts: of tokens drawn from all that were read.
        even: the same if all experts were chosen equally often.
    """

    batch: int
    experts: float
    even: float


def decode_steps(decisions: Decisions, batches: Sequence[int] = BATCHES) -> tuple[DecodeStep, ...]:
    """The number of different experts in a step, for batch sizes up to the number of tokens."""
    n_tokens, n_experts = len(decisions.tokens), decisions.n_experts
    load = decisions.load_E().tolist()
    even = sum(load) / (n_tokens * n_experts)
    return tuple(
        DecodeStep(
            batch,
            float(sum(1 - _none(n_tokens, n, batch) for n in load)),
            float(n_experts * -np.expm1(batch * np.log1p(-even))) if even < 1 else float(n_experts),
        )
        for batch in batches
        if batch <= n_tokens
    )


def _none(n_tokens: int, with_it: int, batch: int) -> float:
    """C(N−n, B) / C(N, B): the probability that none of B tokens is one of n."""
    others = n_tokens - with_it
    if batch > others:
        return 0.0
    logs = lgamma(others + 1) - lgamma(others - batch + 1) - lgamma(n_tokens + 1) + lgamma(n_tokens - batch + 1)
    return float(np.exp(logs))
