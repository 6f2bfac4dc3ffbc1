"""Scalings of rotary frequencies, one a file."""

from sublayer.model.position.scaling import dynamic_ntk, linear, llama3, longrope, none, ntk, proportional, yarn
from sublayer.model.position.scaling.base import ScalingChoice, ScalingConfig

__all__ = [
    "ScalingChoice",
    "ScalingConfig",
    "dynamic_ntk",
    "linear",
    "llama3",
    "longrope",
    "none",
    "ntk",
    "proportional",
    "yarn",
]
