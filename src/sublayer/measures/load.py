"""How even the load of experts is: the arithmetic on numbers of tokens by expert.

Symbols: E experts, k of them a token, T tokens, k·T assignments.
"""

import math
from collections.abc import Sequence

Load = Sequence[float]
"""Assignments of tokens by expert, or shares of them."""


def shares(load: Load) -> list[float]:
    """The load as parts of 1; zeros where there is none at all."""
    whole = sum(load)
    return [each / whole if whole else 0.0 for each in load]


def max_vio(load: Load) -> float:
    """(max − mean) / mean, the maximal violation of Wang et al. 2024, equation 4; 0 when even, and with no load.

    The most that it can be is `worst_vio`.
    """
    mean = sum(load) / len(load)
    return (max(load) - mean) / mean if mean else 0.0


def worst_vio(n_experts: int, top_k: float) -> float:
    """E/k − 1: the maximal violation when every token goes to the same k experts."""
    return n_experts / top_k - 1


def sampling_floor(n_experts: int, top_k: float, n_tokens: float) -> float:
    """√(2 ln E) · √((1 − k/E) · E / (k·T)): about what `max_vio` is when each token's experts are drawn evenly.

    A loose upper bound: the largest of E normal deviations is at most √(2 ln E) standard ones on average, and each
    expert's load is binomial, with T draws of probability k/E.  What is below it is chance.  Infinite without tokens.
    """
    if not n_tokens:
        return math.inf
    chance = max(0.0, 1 - top_k / n_experts) * n_experts / (top_k * n_tokens)
    return math.sqrt(2 * math.log(n_experts)) * math.sqrt(chance)


def dead(load: Load) -> list[int]:
    """The numbers of the experts without any token, in order."""
    return [expert for expert, each in enumerate(load) if not each]


def entropy(probability: Load) -> float:
    """−Σ p ln p in nats, of shares of 1."""
    return -math.fsum(p * math.log(p) for p in probability if p > 0)


def entropy_share(nats: float, n_experts: int) -> float:
    """An entropy over ln E, the most that it can be; 1 for a single expert, where there is nothing to choose."""
    return nats / math.log(n_experts) if n_experts > 1 else 1.0
