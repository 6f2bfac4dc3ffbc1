"""Mutual information of a table of counts, and what it is when one of the two has nothing to do with the other.

I(X; Y) = H(X) + H(Y) − H(X, Y) in nats.  Of a finite sample it is above 0 also where there is nothing to know, by about
(|X|−1)(|Y|−1)/2n (Miller 1955), and far more where cells are nearly empty.  So it stands beside a baseline: the same
figure with the labels shuffled, many times over.

Shapes: X, Y values of the two, P permutations.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Information:
    """Mutual information beside its baseline.

    Attributes:
        nats: of the text as it is.
        most: what it could be at most.
        baseline: its mean with shuffled labels, in nats.
        low, high: the interval that holds 95 % of the figures with shuffled labels.
        p: how often shuffled labels give as much or more, (1 + those) / (1 + permutations), as in Phipson & Smyth 2010;
            1 where there was nothing to shuffle.
        permutations: how many there were.
    """

    nats: float
    most: float
    baseline: float
    low: float
    high: float
    p: float
    permutations: int

    @property
    def share(self) -> float:
        """Of the most that it could be; 0 where that is nothing."""
        return self.nats / self.most if self.most > TINY else 0.0

    @property
    def above(self) -> bool:
        """Whether it is more than chance gives: outside the interval and p below 0.05."""
        return self.nats > self.high and self.p < 0.05

    def tree(self) -> dict[str, Any]:
        """All figures, for JSON."""
        return {
            "nats": self.nats,
            "most": self.most,
            "share": self.share,
            "baseline": {"mean": self.baseline, "low": self.low, "high": self.high},
            "p": self.p,
            "permutations": self.permutations,
            "above_baseline": self.above,
        }


TINY = 1e-12
"""Nats that are none."""


def set_beside(nats: float, most: float, shuffled_P: NDArray[np.float64]) -> Information:
    """A figure beside those with shuffled labels."""
    low, high = (float(value) for value in np.quantile(shuffled_P, (0.025, 0.975)))
    # Sums in another order differ in the last digits, and the same is as much.
    as_much = int((shuffled_P >= nats - TINY).sum())
    p = (1 + as_much) / (1 + len(shuffled_P))
    return Information(max(0.0, nats), most, float(shuffled_P.mean()), low, high, p, len(shuffled_P))


def entropy(count: Counts, axis: int | tuple[int, ...] | None = None) -> NDArray[np.float64]:
    """−Σ p ln p of counts, along an axis, in nats; 0 where there are none."""
    total = np.asarray(count.sum(axis=axis), dtype=np.float64)
    safe = np.maximum(total, 1)
    return np.asarray(np.log(safe) - x_log_x(count).sum(axis=axis) / safe)


def mutual_information(count_XY: Counts) -> NDArray[np.float64]:
    """I(X; Y) in nats of tables [..., X, Y]; never below 0 but for rounding."""
    joint = entropy(count_XY, (-2, -1))
    return np.asarray(entropy(count_XY.sum(-1), -1) + entropy(count_XY.sum(-2), -1) - joint)


def x_log_x(count: Counts) -> NDArray[np.float64]:
    """n ln n, and 0 of 0."""
    return np.asarray(count * np.log(np.maximum(count, 1)), dtype=np.float64)
