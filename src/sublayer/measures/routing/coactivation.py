"""Which experts are chosen together.

Muennighoff et al. 2024, "OLMoE", section 5.2: N_ij / N_i, the share of the tokens with expert i that have expert j too.

Beside it stands independence.  A token's experts are different ones, so that even with experts drawn at random the
share is not expert j's own share of all tokens; it is what follows from N_ij ∝ a_i·a_j for i ≠ j alone, with as many
pairs of each expert as there are: quasi-independence (Goodman 1968).  For experts of equal load that is (k−1)/(E−1).

Shapes: E experts.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sublayer.measures.routing.decisions import Decisions

FEWEST_PAIRS = 5
"""Tokens that a pair of experts must be expected to share to be named."""


@dataclass(frozen=True)
class Coactivation:
    """Tokens that pairs of experts share.

    Attributes:
        count_EE: tokens that have both experts; on the diagonal, tokens that have the one.
        expected_EE: the same under independence; 0 on the diagonal.
    """

    count_EE: NDArray[np.int64]
    expected_EE: NDArray[np.float64]

    @property
    def share_EE(self) -> NDArray[np.float64]:
        """Of the tokens with expert i (row), those that have expert j (column) too."""
        return _over_load(self.count_EE.astype(np.float64), self.count_EE)

    @property
    def expected_share_EE(self) -> NDArray[np.float64]:
        """The same under independence."""
        return _over_load(self.expected_EE, self.count_EE)

    @property
    def divergence(self) -> float:
        """Kullback–Leibler divergence of the pairs from independence, in nats a pair."""
        upper = np.triu_indices(len(self.count_EE), 1)
        n, m = self.count_EE[upper].astype(np.float64), self.expected_EE[upper]
        seen = n > 0
        total = n.sum()
        return float((n[seen] * np.log(n[seen] / m[seen])).sum() / total) if total else 0.0

    @property
    def chance(self) -> float:
        """About what `divergence` is when independent: E(E−3)/2 degrees of freedom over twice the number of pairs
        (Wilks 1938); neighbouring tokens that go to the same experts make it more."""
        n_experts, pairs = len(self.count_EE), np.triu(self.count_EE, 1).sum()
        return max(0.0, n_experts * (n_experts - 3) / 2) / (2 * float(pairs)) if pairs else 0.0

    def strongest(self, most: int = 3) -> list[tuple[int, int, float]]:
        """The pairs that are oftenest together over what independence gives: two experts, and how many times as often;
        largest first, and those above 1 alone."""
        pairs = [
            (i, j, float(self.count_EE[i, j] / self.expected_EE[i, j]))
            for i, j in zip(*np.triu_indices(len(self.count_EE), 1), strict=True)
            if self.expected_EE[i, j] >= FEWEST_PAIRS
        ]
        above = sorted((pair for pair in pairs if pair[2] > 1), key=lambda pair: -pair[2])
        return [(int(i), int(j), times) for i, j, times in above[:most]]

    def tree(self) -> dict[str, Any]:
        """All figures, for JSON."""
        return {
            "tokens": self.count_EE.tolist(),
            "share": self.share_EE.tolist(),
            "independent_share": self.expected_share_EE.tolist(),
            "divergence": self.divergence,
            "chance_divergence": self.chance,
            "strongest": [{"experts": [i, j], "times": times} for i, j, times in self.strongest()],
        }


def coactivation(decisions: Decisions) -> Coactivation | None:
    """Tokens that pairs of experts share; None where no token has two."""
    count_EE = np.zeros((decisions.n_experts, decisions.n_experts), dtype=np.int64)
    for chosen_NE in decisions.chunks():
        # Whole numbers below 2²⁴ are exact in single precision, and a chunk has fewer tokens.
        one_NE = chosen_NE.astype(np.float32)
        count_EE += (one_NE.T @ one_NE).astype(np.int64)
    pairs_E = count_EE.sum(1) - np.diag(count_EE)
    if not pairs_E.any():
        return None
    return Coactivation(count_EE, independent(pairs_E))


def independent(pairs_E: NDArray[np.int64]) -> NDArray[np.float64]:
    """The symmetric table a_i·a_j off the diagonal, and 0 on it, whose rows add up to `pairs_E`, [E, E].

    With S = Σ a_i, each a_i(S − a_i) = pairs_i is a quadratic equation, and S follows by halving an interval.
    """
    pairs = pairs_E.astype(np.float64)
    largest = int(pairs.argmax())
    least = 2 * math.sqrt(pairs[largest])

    def factors(total: float, upper: bool) -> NDArray[np.float64]:
        root_E = np.sqrt(np.maximum(0.0, total**2 - 4 * pairs))
        # (S − √(S² − 4r))/2 without the difference of nearly equal numbers.
        a_E: NDArray[np.float64] = 2 * pairs / (total + root_E)
        if upper:
            a_E[largest] = (total + root_E[largest]) / 2
        return a_E

    # One expert may have more than the half of all pairs' other ends; its factor is then the larger solution.
    upper = bool(factors(least, False).sum() < least)

    def beyond(total: float) -> bool:
        missing = factors(total, upper).sum() - total
        return bool(missing >= 0 if upper else missing <= 0)

    low, high = least, 2 * least
    while not beyond(high) and high < 1e8 * least:  # without end where all pairs hold the one expert
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if beyond(middle) else (middle, high)
    a_E = factors(high, upper)
    expected_EE: NDArray[np.float64] = np.outer(a_E, a_E)
    np.fill_diagonal(expected_EE, 0.0)
    return expected_EE


def _over_load(count_EE: NDArray[np.float64], of_EE: NDArray[np.int64]) -> NDArray[np.float64]:
    share: NDArray[np.float64] = count_EE / np.maximum(1, np.diag(of_EE))[:, None]
    return share
