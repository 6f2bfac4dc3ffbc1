"""Model directories (portable) and training states (resumable)."""

from sublayer.checkpoint.model_directory import (
    load_config,
    load_model,
    load_weights,
    save_description,
    save_model,
    save_weights,
)
from sublayer.checkpoint.training_state import load_model_state, load_state, save_state, states

__all__ = [
    "load_config",
    "load_model",
    "load_model_state",
    "load_state",
    "load_weights",
    "save_description",
    "save_model",
    "save_state",
    "save_weights",
    "states",
]
