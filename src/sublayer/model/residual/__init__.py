"""Residual wirings, one a file."""

from sublayer.model.residual import (
    deepnorm,
    hyper_connections,
    layer_scale,
    none,
    parallel,
    post_norm,
    pre_norm,
    res_post_norm,
    rezero,
    sandwich,
)
from sublayer.model.residual.base import Residual, ResidualChoice, ResidualConfig

__all__ = [
    "Residual",
    "ResidualChoice",
    "ResidualConfig",
    "deepnorm",
    "hyper_connections",
    "layer_scale",
    "none",
    "parallel",
    "post_norm",
    "pre_norm",
    "res_post_norm",
    "rezero",
    "sandwich",
]
