"""Training: the loop, optimizers, schedules, and what is written on the way."""

from sublayer.training.config import TrainingConfig
from sublayer.training.loop import Outcome, train
from sublayer.training.progress import Bar, Lines, Watcher
from sublayer.training.stop import Stopped

__all__ = ["Bar", "Lines", "Outcome", "Stopped", "TrainingConfig", "Watcher", "train"]
