"""What several seeds say, and how soon a run was as good as another.

Everything is over seeds, which are few: intervals are Student's.
"""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import optimize, stats

ALPHA, POWER = 0.05, 0.8
"""Chance of seeing a difference where there is none, and of seeing one that is there."""

Curve = Sequence[tuple[float, float]]
"""Tokens read so far and the held-out loss, in order."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds and where the true one is, at a confidence of 1 − ALPHA.

    Attributes:
        mean: of the seeds.
        low, high: the interval; infinite with a single seed, which says nothing of the others.
        n: how many seeds.
    """

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return self.told()

    def told(self, form: str = ".3f") -> str:
        """As text: the mean, and the interval where there is one."""
        if self.n < 2:
            return f"{self.mean:{form}}"
        return f"{self.mean:{form}} [{self.low:{form}}, {self.high:{form}}]"

    @property
    def tree(self) -> dict[str, float | int | None]:
        """For JSON, which has no word for infinite."""
        bounds = {"low": self.low, "high": self.high} if self.n > 1 else {"low": None, "high": None}
        return {"mean": self.mean, **bounds, "n": self.n}


def interval(values: Sequence[float], alpha: float = ALPHA) -> Interval:
    """mean ± t(1 − α/2, n − 1) · s / √n (Student 1908).

    Raises:
        ValueError: when there are no values.
    """
    if not values:
        raise ValueError("there is no interval of no values")
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    half = float(stats.t.ppf(1 - alpha / 2, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def ratio_interval(values: Sequence[float], alpha: float = ALPHA) -> Interval:
    """The same of ratios, whose logarithms are averaged: a half and a double are 1 together."""
    logs = interval([math.log(value) for value in values], alpha)
    return Interval(math.exp(logs.mean), math.exp(logs.low), math.exp(logs.high), logs.n)


def detectable(std: float, n: int, alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest true mean that a two-sided t-test of n values finds with this power.

    Args:
        std: of the values (for a paired test, of the differences).
        n: how many there are; infinite for fewer than two.
        alpha, power: as above.
    """
    if n < 2:
        return math.inf
    critical = float(stats.t.ppf(1 - alpha / 2, n - 1))

    def found(effect: float) -> float:
        """How often, with a mean of `effect` standard errors: the non-central t on both sides."""
        return float(stats.nct.sf(critical, n - 1, effect) + stats.nct.sf(critical, n - 1, -effect)) - power

    far = critical
    while found(far) < 0:
        far *= 2
    return float(optimize.brentq(found, 0.0, far)) * std / math.sqrt(n)


def tokens_to_loss(curve: Curve, target: float) -> float | None:
    """Tokens until the loss was first as low as `target`, on a straight line between two evaluations.

    Returns:
        None when it never was.  A curve that begins below it gives its first point.
    """
    before: tuple[float, float] | None = None
    for tokens, loss in curve:
        if loss <= target:
            if before is None or before[1] == loss:
                return tokens
            share = (before[1] - target) / (before[1] - loss)
            return before[0] + share * (tokens - before[0])
        before = (tokens, loss)
    return None


def loss_at(curve: Curve, tokens: float) -> float | None:
    """The loss when that many tokens were read, on a straight line; None outside of the curve."""
    for (left, before), (right, after) in itertools.pairwise(curve):
        if left <= tokens <= right:
            return before + (after - before) * (tokens - left) / (right - left)
    return None
