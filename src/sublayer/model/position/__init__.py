"""Position encodings, one a file."""

from sublayer.model.position import alibi, learned, none, rope, scaling, sinusoidal, t5
from sublayer.model.position.base import Position, PositionChoice, PositionConfig

__all__ = [
    "Position",
    "PositionChoice",
    "PositionConfig",
    "alibi",
    "learned",
    "none",
    "rope",
    "scaling",
    "sinusoidal",
    "t5",
]
