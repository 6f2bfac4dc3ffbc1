"""Balances, one a file."""

from sublayer.model.experts.balance import importance, load, loss_free, smooth_load, z_loss
from sublayer.model.experts.balance.base import BalanceConfig, Balances

__all__ = ["BalanceConfig", "Balances", "importance", "load", "loss_free", "smooth_load", "z_loss"]
