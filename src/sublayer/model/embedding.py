"""Tokens to vectors.

Shapes: B batch, T tokens, D d_model, V vocabulary, C segments.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from sublayer.config import Config, Count, Positive
from sublayer.model.dropout import dropout
from sublayer.model.initialise import Normal, Rule
from sublayer.model.layout import Layout
from sublayer.model.norm import NormChoice
from sublayer.model.part import StackShape
from sublayer.model.position.base import Position


class EmbeddingConfig(Config):
    """How tokens become vectors."""

    scale: Positive | Literal["sqrt_d_model"] | None = None
    """Factor of the token's vector before its position is added: Vaswani et al. 2017, section 3.4, have √d_model."""
    norm: NormChoice | None = None
    """Normalise the sum of all (Devlin et al. 2018; Le Scao et al. 2022, section 3.2)."""
    segments: Annotated[Count, Field(ge=2)] | None = None
    """Learn a vector for each segment of an input, such as the first and second of two texts (Devlin et al. 2018,
    section 3).  Which token is in which is said by `Layout.segment_BT`, as it is where texts with a second one are
    classified (a source with a `second_field`); else all are in the first, and the other vectors are not trained."""


class Embedding(nn.Module):
    """Dropout(Norm(scale·token + position + segment)).

    Args:
        config: what there is beside the token's vector.
        vocab_size: V.
        width: of the token's vector; d_model, less what a position has for itself.
        shape: of the stack.
    """

    def __init__(self, config: EmbeddingConfig, vocab_size: int, width: int, shape: StackShape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, width))
        self.scale = shape.d_model**0.5 if config.scale == "sqrt_d_model" else config.scale
        self.segments = nn.Embedding(config.segments, shape.d_model) if config.segments is not None else None
        self.norm = config.norm.build(shape.d_model) if config.norm is not None else None
        self.dropout = shape.dropout
        self._std = shape.initialisation.embedding_std

    def forward(self, tokens_BT: Tensor, layout: Layout, position: Position) -> Tensor:
        """The stack's input [B, T, D]."""
        x_BTD = F.embedding(tokens_BT, self.weight)
        if self.scale is not None:
            x_BTD = x_BTD * self.scale
        x_BTD = position.embed(x_BTD, layout)
        if self.segments is not None:
            segment_BT = torch.zeros_like(tokens_BT) if layout.segment_BT is None else layout.segment_BT
            x_BTD = x_BTD + self.segments(segment_BT)
        if self.norm is not None:
            x_BTD = self.norm(x_BTD)
        return dropout(x_BTD, self.dropout, self.training)

    def initial_values(self) -> Mapping[str, Rule]:
        return {"weight": Normal(self._std), "segments.weight": Normal(self._std)}
