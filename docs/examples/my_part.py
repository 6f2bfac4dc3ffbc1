"""A part of your own: a position encoding that lowers scores with the square root of the distance.

Named in a config as `plugins: [my_part.py]`, it is a choice like any other: `position: root_decay`.
"""

from typing import ClassVar, Literal

import torch

import sublayer as sl
from sublayer.config import Positive
from sublayer.model.attention.score import OffsetBias
from sublayer.model.position import Position, PositionConfig


@sl.register
class RootDecayConfig(PositionConfig):
    """Lower each score by a strength times the square root of the distance."""

    paper: ClassVar[str] = "yours"
    shift_invariant: ClassVar[bool] = True  # what it claims, the property tests check

    kind: Literal["root_decay"] = "root_decay"
    strength: Positive = 0.5
    """Subtracted from the score of the direct neighbour."""

    def build(self, shape, heads):
        return RootDecay(self.strength, heads.count)


class RootDecay(Position):
    """score(i, j) − strength · √|i − j|, the same in every head."""

    def __init__(self, strength: float, n_heads: int) -> None:
        super().__init__()
        self.strength, self.n_heads = strength, n_heads

    def prepare(self, q_BHTK, k_BGSK, span, scale):
        return OffsetBias(f"root decay {self.strength} {self.n_heads}", self._bias)

    def _bias(self, offsets: torch.Tensor) -> torch.Tensor:
        # offsets [..., T, S], how far back each key lies → additions [..., H, T, S]
        decay = -self.strength * offsets.abs().float().sqrt()
        return decay[..., None, :, :].expand(*offsets.shape[:-2], self.n_heads, *offsets.shape[-2:])
