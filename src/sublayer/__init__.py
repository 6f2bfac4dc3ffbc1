"""sublayer: the Transformer, whole.

One config names every choice of the literature; from it this package trains, generates, measures and compares.

    import sublayer as sl
    run = sl.train("my.yaml", **{"training.steps": 200})
    model, tokenizer = sl.load("runs/first")
    print(sl.generate(model, tokenizer, "def "))

Importing the package is light: torch is imported when a name that needs it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sublayer.errors import CheckpointError, ConfigError, DataError, RunError, SublayerError
from sublayer.version import __version__

if TYPE_CHECKING:
    from sublayer.api import generate, load, train
    from sublayer.data import DataConfig
    from sublayer.model import Layout, ModelConfig, Transformer
    from sublayer.preflight import Check, check
    from sublayer.registry import register
    from sublayer.run import RunConfig
    from sublayer.training import TrainingConfig

_HOME = {
    "generate": "sublayer.api",
    "load": "sublayer.api",
    "train": "sublayer.api",
    "Check": "sublayer.preflight",
    "check": "sublayer.preflight",
    "DataConfig": "sublayer.data",
    "Layout": "sublayer.model",
    "ModelConfig": "sublayer.model",
    "Transformer": "sublayer.model",
    "register": "sublayer.registry",
    "RunConfig": "sublayer.run",
    "TrainingConfig": "sublayer.training",
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
    "SublayerError",
    "TrainingConfig",
    "Transformer",
    "__version__",
    "check",
    "generate",
    "load",
    "register",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'sublayer' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
