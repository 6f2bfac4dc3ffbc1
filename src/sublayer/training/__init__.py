"""Training: the loop, optimizers, schedules, and what is written on the way.

Names are imported when first used, so that reading a config does not wait for the loop and what it saves with.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sublayer.training.config import TrainingConfig as TrainingConfig
    from sublayer.training.loop import Outcome as Outcome
    from sublayer.training.loop import train as train
    from sublayer.training.stop import Stopped as Stopped
    from sublayer.training.watcher import Bar as Bar
    from sublayer.training.watcher import Lines as Lines
    from sublayer.training.watcher import Watcher as Watcher

_HOMES = {
    "Bar": "watcher",
    "Lines": "watcher",
    "Outcome": "loop",
    "Stopped": "stop",
    "TrainingConfig": "config",
    "Watcher": "watcher",
    "train": "loop",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"sublayer.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'sublayer.training' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(_HOMES)
