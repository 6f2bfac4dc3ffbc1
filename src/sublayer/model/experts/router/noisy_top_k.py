"""Top-k with noise that the router learns the size of.

Shapes: N tokens, D d_model, E experts.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sublayer.model.experts.router.base import RouterConfig, Team
from sublayer.model.experts.router.top_k import TopK, TopKConfig
from sublayer.model.experts.routing import Noise
from sublayer.model.initialise import Constant, Rule
from sublayer.model.part import StackShape


@RouterConfig.registry.register
class NoisyTopKConfig(TopKConfig):
    """Top-k whose logits have noise in training, as strong as a second learned matrix says."""

    paper: ClassVar[str] = "Shazeer et al. 2017, equations 3 to 5"
    balances: ClassVar[frozenset[str]] = TopKConfig.balances | {"smooth_load"}

    kind: Literal["noisy_top_k"] = "noisy_top_k"  # type: ignore[assignment]
    scoring: Literal["softmax", "softmax_after", "sigmoid"] = "softmax_after"
    """What makes scores of logits: a softmax over the chosen experts alone, as in the paper, one over all, or a sigmoid
    of each by itself."""

    def build(self, shape: StackShape, team: Team) -> "NoisyTopK":
        return NoisyTopK(self, shape, team)


class NoisyTopK(TopK):
    """H = x W_g + ε ⊙ softplus(x W_n), with ε ~ N(0, 1) in training and 0 outside of it."""

    def __init__(self, config: NoisyTopKConfig, shape: StackShape, team: Team) -> None:
        super().__init__(config, shape, team)
        self.noise_weight = nn.Parameter(torch.empty(team.n_experts, shape.d_model))

    def perturbed(self, clean_NE: Tensor, x_ND: Tensor) -> tuple[Tensor, Noise | None]:
        if not self.training:
            return clean_NE, None
        std_NE = F.softplus(F.linear(x_ND, self.noise_weight.to(x_ND.dtype)))
        return clean_NE + torch.randn_like(clean_NE) * std_NE, Noise(clean_NE, std_NE)

    def initial_values(self) -> Mapping[str, Rule]:
        return {**super().initial_values(), "noise_weight": Constant(0.0)}
