"""A model without memory for its weights."""

import torch

from sublayer.errors import ConfigError
from sublayer.model.config import ModelConfig
from sublayer.model.transformer import Transformer


class Unbuildable(ConfigError):
    """Sizes that no tensors can have.

    Attributes:
        problem: what PyTorch said, without a full stop.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(f"model: no such model can be built ({problem}); choose smaller sizes.")
        self.problem = problem


def ghost(config: ModelConfig) -> Transformer:
    """The model on the meta device.

    Raises:
        Unbuildable: when no tensors can have such sizes.
        ConfigError: when `vocab_size` is left out.
    """
    try:
        with torch.device("meta"):
            return Transformer(config)
    except (RuntimeError, TypeError, OverflowError) as error:
        raise Unbuildable(str(error).strip().splitlines()[0].rstrip(".")) from None
