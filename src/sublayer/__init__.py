"""sublayer: the Transformer, whole.

One config names every choice of the literature; from it this package trains, generates, measures and compares.

    import sublayer as sl
    run = sl.train("my.yaml", **{"training.steps": 200})
    model, tokenizer = sl.load("runs/first")
    print(sl.generate(model, tokenizer, "def "))

Importing the package is light: torch is imported when a name that needs it is first used.
"""

from typing import TYPE_CHECKING

from sublayer.errors import CheckpointError, ConfigError, DataError, RunError, SublayerError
from sublayer.lazy import names_of
from sublayer.version import __version__

if TYPE_CHECKING:
    from sublayer.api import classify, fill_masks, generate, load, routing, train
    from sublayer.data import DataConfig
    from sublayer.model import Layout, ModelConfig, Source, Transformer
    from sublayer.preflight import Check, check
    from sublayer.registry import register
    from sublayer.run import RunConfig
    from sublayer.training import TrainingConfig

_HOME = {
    "classify": "api",
    "fill_masks": "api",
    "generate": "api",
    "load": "api",
    "routing": "api",
    "train": "api",
    "Check": "preflight",
    "check": "preflight",
    "DataConfig": "data",
    "Layout": "model",
    "ModelConfig": "model",
    "Source": "model",
    "Transformer": "model",
    "register": "registry",
    "RunConfig": "run",
    "TrainingConfig": "training",
}

__all__ = [
    "Check",
    "CheckpointError",
    "ConfigError",
    "DataConfig",
    "DataError",
    "Layout",
    "ModelConfig",
    "RunConfig",
    "RunError",
    "Source",
    "SublayerError",
    "TrainingConfig",
    "Transformer",
    "__version__",
    "check",
    "classify",
    "fill_masks",
    "generate",
    "load",
    "register",
    "routing",
    "train",
]


__getattr__, _ = names_of(__name__, _HOME)


def __dir__() -> list[str]:
    return __all__
