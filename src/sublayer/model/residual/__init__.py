"""Residual wirings, one a file."""

from sublayer.model.residual import post_norm, pre_norm
from sublayer.model.residual.base import Residual, ResidualChoice, ResidualConfig

__all__ = ["Residual", "ResidualChoice", "ResidualConfig", "post_norm", "pre_norm"]
