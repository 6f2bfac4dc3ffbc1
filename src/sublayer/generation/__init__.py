"""Generation: from a model and a prompt to text.

`generate(model, tokenizer, "def ")` gives a `Completion`.  Names are imported when first used, so that reading a config
does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sublayer.generation.completion import Completion as Completion
    from sublayer.generation.completion import generate as generate
    from sublayer.generation.config import GenerationConfig as GenerationConfig
    from sublayer.generation.decoding import Event as Event
    from sublayer.generation.decoding import Reason as Reason
    from sublayer.generation.decoding import decode as decode
    from sublayer.generation.defaults import generation_config as generation_config

# No file is named like a function in it: importing the file would put the module in the function's place here.
_HOMES = {
    "Completion": "completion",
    "Event": "decoding",
    "GenerationConfig": "config",
    "Reason": "decoding",
    "decode": "decoding",
    "generate": "completion",
    "generation_config": "defaults",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"sublayer.generation.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'sublayer.generation' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(_HOMES)
