"""Sinusoidal position encoding."""

from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from sublayer.config import Positive
from sublayer.model.part import Heads, StackShape
from sublayer.model.position.base import PositionConfig
from sublayer.model.position.embedded import EmbeddedPosition, EmbeddedPositionConfig


@PositionConfig.registry.register
class SinusoidalConfig(EmbeddedPositionConfig):
    """Fixed sines and cosines of geometrically spaced wavelengths, interleaved."""

    paper: ClassVar[str] = "Vaswani et al. 2017, section 3.5"

    kind: Literal["sinusoidal"] = "sinusoidal"
    theta: Positive = 10000.0
    """Longest wavelength over 2π, in positions."""
    amplitude: Positive | None = None
    """Height of the waves; left out, the standard deviation of the token embeddings, which gives the ratio of the
    paper, where waves of 1 stand beside embeddings multiplied by √d_model."""

    def filled(self, shape: StackShape) -> Self:
        config = super().filled(shape)
        if config.d_position is not None and config.d_position % 2:
            raise ValueError(f"sinusoids come in pairs, but their width is {config.d_position}; choose an even width")
        return config.model_copy(update={"amplitude": self.amplitude or shape.initialisation.embedding_std})

    def build(self, shape: StackShape, heads: Heads) -> "Sinusoidal":
        return Sinusoidal(self)


class Sinusoidal(EmbeddedPosition):
    """PE(p, 2i) = sin(p·θ^(−2i/d)), PE(p, 2i+1) = cos of the same; defined at every position."""

    def __init__(self, config: SinusoidalConfig) -> None:
        super().__init__(config)
        assert config.d_position is not None
        assert config.amplitude is not None
        self.width, self.theta, self.amplitude = config.d_position, config.theta, config.amplitude

    def vectors(self, positions_BT: Tensor) -> Tensor:
        even = torch.arange(0, self.width, 2, device=positions_BT.device)
        frequencies = self.theta ** (-even.double() / self.width)
        angles = positions_BT[..., None] * frequencies
        waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
        return (waves * self.amplitude).float()
