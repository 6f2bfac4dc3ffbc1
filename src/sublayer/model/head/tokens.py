"""A score for each token of the vocabulary, at each place.

Shapes: B batch, T tokens, D d_model, V vocabulary.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sublayer.config import Flag, Positive
from sublayer.model.activation import ACTIVATIONS, Activation
from sublayer.model.head.base import Head, HeadConfig
from sublayer.model.initialise import Constant, Normal, Rule
from sublayer.model.layout import Layout
from sublayer.model.loss import cross_entropy
from sublayer.model.norm import NormConfig, normalised
from sublayer.model.part import StackShape
from sublayer.model.precision import at_least_float32
from sublayer.model.soft_cap import soft_capped


@HeadConfig.registry.register
class TokenHeadConfig(HeadConfig):
    """A score for each token of the vocabulary at each place: its embedding's product with the hidden state."""

    paper: ClassVar[str] = "Vaswani et al. 2017, section 3.4; transform: Devlin et al. 2018, appendix A"
    by_token: ClassVar[bool] = True

    kind: Literal["tokens"] = "tokens"
    transform: Activation | None = None
    """A square matrix, this activation and a norm before the scores, as BERT has them."""
    bias: Flag = False
    """Learn a bias for each token."""
    scale: Positive | Literal["1/sqrt_d_model"] | None = None
    """Factor of the hidden state; T5, whose embeddings are wide, has 1/√d_model where they are tied."""
    soft_cap: Positive | None = None
    """c of c·tanh(logit/c), which keeps logits between −c and c (Gemma Team 2024, section 2)."""

    def build(self, shape: StackShape, vocab_size: int, norm: NormConfig, tied: bool) -> "TokenHead":
        return TokenHead(self, shape, vocab_size, norm, tied)


class TokenHead(Head):
    """cap(scale·Norm(act(x W_T)) Wᵀ + b), of which only x Wᵀ is always there."""

    def __init__(
        self, config: TokenHeadConfig, shape: StackShape, vocab_size: int, norm: NormConfig, tied: bool
    ) -> None:
        super().__init__()
        width = shape.d_model
        self.soft_cap = config.soft_cap
        self.scale = width**-0.5 if config.scale == "1/sqrt_d_model" else config.scale
        self.activation = None if config.transform is None else ACTIVATIONS[config.transform]
        self.transform = None if config.transform is None else nn.Linear(width, width)
        self.norm = None if config.transform is None else norm.build(width)
        self.output = None if tied else nn.Linear(width, vocab_size, bias=False)
        self.bias = nn.Parameter(torch.empty(vocab_size)) if config.bias else None
        self._std = shape.std(width)

    def forward(self, x_BTD: Tensor, layout: Layout, embedding_VD: Tensor) -> Tensor:
        x_BTD = self._prepared(x_BTD)
        logits: Tensor = F.linear(x_BTD, embedding_VD) if self.output is None else self.output(x_BTD)
        logits = logits if self.bias is None else logits + self.bias
        # A cap in float32, as in the loss: near it, neighbouring numbers in bfloat16 are far apart.
        return logits if self.soft_cap is None else soft_capped(at_least_float32(logits), self.soft_cap)

    def loss(self, x_BTD: Tensor, layout: Layout, embedding_VD: Tensor, targets: Tensor) -> Tensor:
        weight_VD = embedding_VD if self.output is None else self.output.weight
        hidden_ND = self._prepared(x_BTD).flatten(0, 1)
        return cross_entropy(hidden_ND, weight_VD, targets.flatten(), self.bias, self.soft_cap)

    def _prepared(self, x_BTD: Tensor) -> Tensor:
        if self.transform is not None and self.norm is not None and self.activation is not None:
            x_BTD = normalised(self.norm, self.activation(self.transform(x_BTD)))
        return x_BTD if self.scale is None else x_BTD * self.scale

    def initial_values(self) -> Mapping[str, Rule]:
        return {
            "output.weight": Normal(self._std),
            "transform.weight": Normal(self._std),
            "transform.bias": Constant(0.0),
            "bias": Constant(0.0),
        }
