"""Training: the loop, optimizers, schedules, and what is written on the way."""

from sublayer.training.config import TrainingConfig
from sublayer.training.loop import Outcome, train
from sublayer.training.stop import Stopped
from sublayer.training.watcher import Bar, Lines, Watcher

__all__ = ["Bar", "Lines", "Outcome", "Stopped", "TrainingConfig", "Watcher", "train"]
