"""Token embeddings and the output matrix.

Shapes: B batch, T tokens, D d_model, V vocabulary.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sublayer.model.initialise import Normal, Rule


class TokenEmbedding(nn.Module):
    """A vector for each token."""

    def __init__(self, vocab_size: int, width: int, std: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, width))
        self._std = std

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return F.embedding(tokens_BT, self.weight)

    def initial_values(self) -> Mapping[str, Rule]:
        return {"weight": Normal(self._std)}


class OutputHead(nn.Linear):
    """The matrix from the last hidden state to the logits, when it is not the token embedding itself."""

    def __init__(self, vocab_size: int, width: int, std: float) -> None:
        super().__init__(width, vocab_size, bias=False)
        self._std = std

    def initial_values(self) -> Mapping[str, Rule]:
        return {"weight": Normal(self._std)}
