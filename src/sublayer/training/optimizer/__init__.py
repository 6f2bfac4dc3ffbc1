"""Optimizers, one a file."""

from sublayer.training.optimizer import adamw, muon
from sublayer.training.optimizer.base import Optimizer, OptimizerChoice, OptimizerConfig

__all__ = ["Optimizer", "OptimizerChoice", "OptimizerConfig", "adamw", "muon"]
