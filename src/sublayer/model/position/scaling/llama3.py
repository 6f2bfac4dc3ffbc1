"""The scaling of Llama 3.1."""

import math
from typing import ClassVar, Literal, Self

from torch import Tensor

from sublayer.config import Count, Positive
from sublayer.model.part import StackShape
from sublayer.model.position.scaling.base import Factor, ScalingConfig, stretched


@ScalingConfig.registry.register
class Llama3Config(ScalingConfig):
    """Divide the frequencies of long waves, keep those of short ones, and blend between."""

    paper: ClassVar[str] = "Grattafiori et al. 2024, section 3.4.2, and its published code"

    kind: Literal["llama3"] = "llama3"
    factor: Factor | None = None
    """How many times as long as in training texts may be; left out, max_length / original_length, or 4 without
    either."""
    original_length: Count | None = None
    """L₀: length of texts in training, in tokens; left out, max_length / factor."""
    low_freq_factor: Positive = 1.0
    """Waves longer than L₀ / low_freq_factor are divided by the factor."""
    high_freq_factor: Positive = 4.0
    """Waves shorter than L₀ / high_freq_factor are kept."""

    def filled(self, shape: StackShape) -> Self:
        factor, length = stretched(self.factor, self.original_length, shape)
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"high_freq_factor ({self.high_freq_factor:g}) must be above low_freq_factor "
                f"({self.low_freq_factor:g}): the waves between them are blended"
            )
        return self.model_copy(update={"factor": factor, "original_length": length})

    def frequencies(self, base_F: Tensor, theta: float, length_BT: Tensor | None) -> Tensor:
        assert self.factor is not None and self.original_length is not None
        n_waves = self.original_length * base_F / (2 * math.pi)
        kept = (n_waves - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        kept = kept.clamp(0, 1)
        return base_F * (kept + (1 - kept) / self.factor)
