"""LongRoPE: a factor for each pair, searched for."""

import math
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from sublayer.config import Count, Positive
from sublayer.model.part import CacheExact, StackShape
from sublayer.model.position.scaling.base import Factor, ScalingConfig, stretched


@ScalingConfig.registry.register
class LongRopeConfig(ScalingConfig):
    """Divide each pair's frequency by a factor of its own, by others in texts longer than in training.

    The length is that of the token's own document, up to its last token in the batch.  A cache holds keys as they were
    rotated when the text was shorter, so decoding is exact up to the length in training.
    """

    paper: ClassVar[str] = "Ding et al. 2024, equation 2"
    shift_invariant: ClassVar[bool] = False
    by_length: ClassVar[bool] = True

    kind: Literal["longrope"] = "longrope"
    factor: Factor | None = None
    """How many times as long as in training texts may be; left out, max_length / original_length, or 4 without
    either."""
    original_length: Count | None = None
    """L₀: length of texts in training, in tokens; left out, max_length / factor."""
    short_factor: tuple[Positive, ...] | None = None
    """What the frequency of each pair is divided by in texts of up to L₀ tokens, fastest first; left out, 1."""
    long_factor: tuple[Positive, ...] | None = None
    """The same in longer texts; left out, the factor for every pair."""
    attention_factor: Positive | None = None
    """What cosine and sine are multiplied by, and scores by its square; left out, √(1 + ln(factor)/ln(L₀))."""

    def filled(self, shape: StackShape) -> Self:
        factor, length = stretched(self.factor, self.original_length, shape)
        if length < 2 and factor > 1 and self.attention_factor is None:
            raise ValueError(
                f"original_length is {length}, whose logarithm is 0; give a longer one or attention_factor"
            )
        return self.model_copy(update={"factor": factor, "original_length": length})

    def cache_exact(self, shape: StackShape) -> CacheExact:
        return CacheExact(length=stretched(self.factor, self.original_length, shape)[1])

    @property
    def amplitude(self) -> float:
        assert self.factor is not None and self.original_length is not None
        if self.attention_factor is not None:
            return self.attention_factor
        return 1.0 if self.factor <= 1 else math.sqrt(1 + math.log(self.factor) / math.log(self.original_length))

    def check(self, theta: float, width: int) -> None:
        for name, factors in (("short_factor", self.short_factor), ("long_factor", self.long_factor)):
            if factors is not None and len(factors) != width // 2:
                raise ValueError(
                    f"{name} has {len(factors)} numbers, but {width // 2} pairs of features are rotated; give one "
                    "for each"
                )

    def frequencies(self, base_F: Tensor, theta: float, length_BT: Tensor | None) -> Tensor:
        assert length_BT is not None and self.factor is not None and self.original_length is not None
        n_pairs = len(base_F)
        short, long = (
            torch.tensor(factors, dtype=torch.float32, device=base_F.device)
            for factors in (self.short_factor or (1.0,) * n_pairs, self.long_factor or (self.factor,) * n_pairs)
        )
        return base_F / torch.where((length_BT > self.original_length)[..., None], long, short)
