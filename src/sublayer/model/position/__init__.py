"""Position encodings, one a file."""

from sublayer.model.position import (
    alibi,
    cope,
    fire,
    kerple,
    learned,
    learned_bias,
    none,
    randomized,
    rope,
    scaling,
    shaw,
    sinusoidal,
    t5,
    transformer_xl,
)
from sublayer.model.position.base import Position, PositionChoice, PositionConfig

__all__ = [
    "Position",
    "PositionChoice",
    "PositionConfig",
    "alibi",
    "cope",
    "fire",
    "kerple",
    "learned",
    "learned_bias",
    "none",
    "randomized",
    "rope",
    "scaling",
    "shaw",
    "sinusoidal",
    "t5",
    "transformer_xl",
]
