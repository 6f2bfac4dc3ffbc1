"""A score for each class, for a whole row.

Shapes: B batch, T tokens, D d_model, C classes.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from sublayer.config import Count, Flag, Probability
from sublayer.errors import ConfigError
from sublayer.model.dropout import dropout
from sublayer.model.head.base import Head, HeadConfig
from sublayer.model.initialise import Constant, Normal, Rule
from sublayer.model.layout import Layout
from sublayer.model.loss import IGNORED
from sublayer.model.norm import NormConfig
from sublayer.model.part import StackShape
from sublayer.model.precision import at_least_float32


@HeadConfig.registry.register
class ClassHeadConfig(HeadConfig):
    """A score for each class, from one hidden state of the row or from the mean of all."""

    paper: ClassVar[str] = "Devlin et al. 2018, section 4.1; Radford et al. 2018, section 3.2"
    by_token: ClassVar[bool] = False

    kind: Literal["classes"] = "classes"
    n_classes: Count | None = None
    """How many classes there are; left out, as many as the data has."""
    classes: tuple[str, ...] = ()
    """What they are called, by number; left out, as in the data."""
    pooling: Literal["first", "mean", "last"] = "mean"
    """What stands for the row: the hidden state of its first token, of its last (in a decoder the only one that has
    seen all), or the mean of all."""
    hidden: Flag = False
    """A square matrix and tanh before the scores, as BERT has them."""
    dropout: Probability = 0.0
    """Probability of dropping a value that the scores are made from, in training."""

    @model_validator(mode="after")
    def _as_many_as_named(self) -> Self:
        if self.n_classes == 1:
            raise ValueError(
                "n_classes is 1, and between fewer than 2 there is nothing to tell; name more or leave it out"
            )
        if len(self.classes) == 1 or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes are {', '.join(self.classes)}; name at least two, each once, or leave them out")
        if self.classes and self.n_classes not in (None, len(self.classes)):
            raise ValueError(f"n_classes is {self.n_classes}, but {len(self.classes)} classes are named; leave one out")
        return self

    @property
    def number(self) -> int | None:
        """How many classes there are, as far as that is known."""
        return self.n_classes or len(self.classes) or None

    def filled(self, shape: StackShape) -> Self:
        if shape.stack == "decoder" and self.pooling == "first":
            raise ValueError("pooling: the first token of a decoder has seen no other; choose last or mean")
        return self

    def token_flops(self, weights: Mapping[str, tuple[int, ...]]) -> float:
        return 0.0  # it is a row that is scored, once

    def build(self, shape: StackShape, vocab_size: int, norm: NormConfig, tied: bool) -> "ClassHead":
        return ClassHead(self, shape)


class ClassHead(Head):
    """pool(x) W + b, or tanh(pool(x) W_H + b_H) W + b."""

    def __init__(self, config: ClassHeadConfig, shape: StackShape) -> None:
        super().__init__()
        if config.number is None:
            raise ConfigError("head.n_classes: is required to build a model; in a run it comes from the data.")
        self.pooling, self.dropout = config.pooling, config.dropout
        self.hidden = nn.Linear(shape.d_model, shape.d_model) if config.hidden else None
        self.output = nn.Linear(shape.d_model, config.number)
        self._std = shape.std(shape.d_model)

    def forward(self, x_BTD: Tensor, layout: Layout, embedding_VD: Tensor) -> Tensor:
        pooled_BD = self._pooled(x_BTD, layout)
        if self.hidden is not None:
            pooled_BD = torch.tanh(self.hidden(pooled_BD))
        logits_BC: Tensor = self.output(dropout(pooled_BD, self.dropout, self.training))
        return logits_BC

    def loss(self, x_BTD: Tensor, layout: Layout, embedding_VD: Tensor, targets: Tensor) -> Tensor:
        logits_BC = at_least_float32(self(x_BTD, layout, embedding_VD))
        total = F.cross_entropy(logits_BC, targets, ignore_index=IGNORED, reduction="sum")
        return total / (targets != IGNORED).sum().clamp(min=1)

    def _pooled(self, x_BTD: Tensor, layout: Layout) -> Tensor:
        if layout.document_BT is not None:
            raise ValueError("layout.document_BT: a head over classes reads one text a row; give each its own row.")
        valid_BT = layout.valid_BT
        if self.pooling == "mean":
            if valid_BT is None:
                return x_BTD.mean(1)
            x = at_least_float32(x_BTD)  # as `mean` sums, too
            counted = valid_BT.to(x.dtype)[:, :, None]
            return ((x * counted).sum(1) / counted.sum(1).clamp(min=1)).to(x_BTD.dtype)
        if valid_BT is None:
            return x_BTD[:, 0 if self.pooling == "first" else -1]
        place_T = torch.arange(valid_BT.shape[1], device=valid_BT.device)
        if self.pooling == "first":
            place_B = torch.where(valid_BT, place_T, len(place_T) - 1).amin(1)
        else:
            place_B = torch.where(valid_BT, place_T, 0).amax(1)
        return x_BTD[torch.arange(len(place_B), device=place_B.device), place_B]

    def initial_values(self) -> Mapping[str, Rule]:
        rules: dict[str, Rule] = {f"{name}.weight": Normal(self._std) for name in ("hidden", "output")}
        return rules | {f"{name}.bias": Constant(0.0) for name in ("hidden", "output")}
