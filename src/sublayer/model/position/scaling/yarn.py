"""YaRN: interpolation by wavelength, and sharper attention."""

import math
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from sublayer.config import Count, Flag, Positive
from sublayer.model.part import StackShape
from sublayer.model.position.scaling.base import Factor, ScalingConfig, stretched


@ScalingConfig.registry.register
class YarnConfig(ScalingConfig):
    """Divide the frequencies of slow pairs, keep those of fast ones, and sharpen attention."""

    paper: ClassVar[str] = "Peng et al. 2023, definitions 2 and 3"

    kind: Literal["yarn"] = "yarn"
    factor: Factor | None = None
    """How many times as long as in training texts may be; left out, max_length / original_length, or 4 without
    either."""
    original_length: Count | None = None
    """Length of texts in training, in tokens; left out, max_length / factor."""
    beta_fast: Positive = 32.0
    """Pairs that turn at least so often over the length in training are kept."""
    beta_slow: Positive = 1.0
    """Pairs that turn at most so often are divided by the factor; between the two, a ramp over the pairs."""
    attention_factor: Positive | None = None
    """What cosine and sine are multiplied by, and scores by its square; left out, 0.1·ln(factor) + 1, or what mscale
    and mscale_all_dim give."""
    mscale: Positive | None = None
    """DeepSeek's m: cosine and sine are multiplied by (0.1·m·ln(factor) + 1) over the same with mscale_all_dim."""
    mscale_all_dim: Positive | None = None
    """DeepSeek's m for all features; its models multiply the scores' scale by (0.1·m·ln(factor) + 1)² besides, which is
    the attention's to do."""
    truncate: Flag = True
    """Let the ramp begin and end at whole pairs."""

    def filled(self, shape: StackShape) -> Self:
        factor, length = stretched(self.factor, self.original_length, shape)
        if (self.mscale is None) != (self.mscale_all_dim is None):
            raise ValueError("mscale and mscale_all_dim are used as a ratio; give both or neither")
        if self.attention_factor is not None and self.mscale is not None:
            raise ValueError("attention_factor and mscale both state what cosine and sine are multiplied by; give one")
        if self.beta_fast < self.beta_slow:
            raise ValueError(
                f"beta_fast ({self.beta_fast:g}) is below beta_slow ({self.beta_slow:g}), so no pair would be both "
                "kept and fast; exchange them"
            )
        return self.model_copy(update={"factor": factor, "original_length": length})

    @property
    def amplitude(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale is not None and self.mscale_all_dim is not None:
            return self._sharpness(self.mscale) / self._sharpness(self.mscale_all_dim)
        return self._sharpness(1.0)

    def _sharpness(self, m: float) -> float:
        """√(1/t) of the paper's equation 22, which cosine and sine take; 1 without scaling."""
        assert self.factor is not None
        return 0.1 * m * math.log(self.factor) + 1

    def check(self, theta: float, width: int) -> None:
        if theta <= 1:
            raise ValueError(
                f"yarn tells pairs by their wavelengths, which are all alike with theta {theta:g}; raise it"
            )

    def frequencies(self, base_F: Tensor, theta: float, length_BT: Tensor | None) -> Tensor:
        assert self.factor is not None
        low, high = self._pair(self.beta_fast, theta, base_F), self._pair(self.beta_slow, theta, base_F)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        # The last pair is the bound in the authors' code as an index of features, twice that of pairs.
        low, high = max(low, 0), min(high, 2 * len(base_F) - 1)
        pairs = torch.arange(len(base_F), device=base_F.device, dtype=torch.float32)
        divided = ((pairs - low) / (high - low if high != low else 0.001)).clamp(0, 1)
        return base_F * (1 - divided + divided / self.factor)

    def _pair(self, n_turns: float, theta: float, base_F: Tensor) -> float:
        """The pair, between whole ones, that turns so often over the length in training."""
        assert self.original_length is not None
        return len(base_F) * math.log(self.original_length / (n_turns * 2 * math.pi)) / math.log(theta)
