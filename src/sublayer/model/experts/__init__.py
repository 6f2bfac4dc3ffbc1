"""Mixture-of-experts: routers, balances, and the experts behind them."""

from sublayer.model.experts.mixture import ExpertsConfig, Mixture

__all__ = ["ExpertsConfig", "Mixture"]
