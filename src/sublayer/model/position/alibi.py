"""Attention with linear biases (ALiBi)."""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sublayer.model.attention.score import OffsetBias
from sublayer.model.layout import Span
from sublayer.model.part import Heads, StackShape
from sublayer.model.position.base import Position, PositionConfig


@PositionConfig.registry.register
class AlibiConfig(PositionConfig):
    """Lower each score in proportion to the distance, by a fixed slope for each head."""

    paper: ClassVar[str] = "Press et al. 2022, section 3"
    shift_invariant: ClassVar[bool] = True

    kind: Literal["alibi"] = "alibi"

    def build(self, shape: StackShape, heads: Heads) -> "Alibi":
        return Alibi(heads.count)


def slopes(n_heads: int) -> list[float]:
    """The slope of each head: 2^(−8h/H) for h = 1 … H when H is a power of two.

    For another H, as the authors' code has it: the slopes of the power of two below, then every other slope of the
    power of two above.
    """
    below = 2 ** int(math.log2(n_heads))
    geometric = [2 ** (-8 * h / below) for h in range(1, below + 1)]
    between = [2 ** (-8 * h / (2 * below)) for h in range(1, 2 * below + 1, 2)]
    return geometric + between[: n_heads - below]


class Alibi(Position):
    """score(i, j) − slope·|i − j|; symmetric in an encoder, where the paper defines causal attention only."""

    def __init__(self, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads

    def prepare(self, q_BHTK: Tensor, k_BGSK: Tensor, span: Span, scale: float) -> OffsetBias:
        return OffsetBias(f"alibi {self.n_heads}", self._bias)

    def _bias(self, offsets: Tensor) -> Tensor:
        # float32: in bfloat16 the bias of neighbouring distant keys would be the same number.
        slope = torch.tensor(slopes(self.n_heads), device=offsets.device)
        return -slope[:, None, None] * offsets.abs()[:, None].float()
