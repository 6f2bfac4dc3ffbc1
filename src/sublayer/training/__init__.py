"""Training: the loop, optimizers, schedules, and what is written on the way.

Names are imported when first used, so that reading a config does not wait for the loop and what it saves with.
"""

from typing import TYPE_CHECKING

from sublayer.lazy import names_of

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

__getattr__, __dir__ = names_of(__name__, _HOMES)
