"""What a model of any kind makes of held-out tokens."""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Score:
    """The loss on held-out tokens, in both units.

    Attributes:
        nats: the sum of −log p over the scored tokens.
        tokens: how many were scored.
        bytes: of text, which those tokens stand for.
    """

    nats: float
    tokens: int
    bytes: int

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.nats / self.tokens

    @property
    def bits_per_byte(self) -> float:
        """Bits a byte of text: comparable between tokenizers, and with compressors."""
        return self.nats / math.log(2.0) / max(1, self.bytes)


def total(scores: Iterable[Score]) -> Score:
    """Several domains as one, each token weighing the same."""
    scores = list(scores)
    nats, tokens, n_bytes = (sum(getattr(score, name) for score in scores) for name in ("nats", "tokens", "bytes"))
    return Score(nats, tokens, n_bytes)
