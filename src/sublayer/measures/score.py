"""What a model of any kind makes of held-out targets."""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Score:
    """The loss on held-out targets, and what else can be told of them.

    Attributes:
        nats: the sum of −log p over the scored targets.
        tokens: how many were scored; of a classification, rows.
        bytes: of text, which those tokens stand for; None where the targets are not text in whole.
        correct: for how many the likeliest answer was right; None where that was not looked at.
    """

    nats: float
    tokens: int
    bytes: int | None = None
    correct: int | None = None

    @property
    def loss(self) -> float:
        """Nats a target."""
        return self.nats / max(1, self.tokens)

    @property
    def bits_per_byte(self) -> float | None:
        """Bits a byte of text: comparable between tokenizers, and with compressors."""
        return None if self.bytes is None else self.nats / math.log(2.0) / max(1, self.bytes)

    @property
    def accuracy(self) -> float | None:
        """Share of targets for which the likeliest answer was right."""
        return None if self.correct is None else self.correct / max(1, self.tokens)

    def figures(self) -> dict[str, float]:
        """What can be told of it, by name."""
        told = {"loss": self.loss, "bits_per_byte": self.bits_per_byte, "accuracy": self.accuracy}
        return {name: value for name, value in told.items() if value is not None}


def total(scores: Iterable[Score]) -> Score:
    """Several domains as one, each target weighing the same."""
    scores = list(scores)
    nats, tokens = sum(score.nats for score in scores), sum(score.tokens for score in scores)
    sizes, correct = [score.bytes for score in scores], [score.correct for score in scores]
    return Score(
        nats,
        tokens,
        None if None in sizes else sum(size or 0 for size in sizes),
        None if None in correct else sum(count or 0 for count in correct),
    )
