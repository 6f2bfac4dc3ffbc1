"""The load loss of noisy routing.

Shapes: N tokens, E experts, K top_k.
"""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sublayer.config import Positive
from sublayer.model.experts.balance.base import BalanceConfig, Sums
from sublayer.model.experts.balance.importance import squared_variation
from sublayer.model.experts.routing import Places, Routing, summed


@BalanceConfig.registry.register
class SmoothLoadConfig(BalanceConfig):
    """The squared coefficient of variation of the number of tokens that each expert would get with its noise drawn
    again, which has a gradient; of a noisy router.

    Loadᵢ = Σ Φ((clean logitᵢ − k-th highest of the others) / standard deviation of the noise).
    """

    paper: ClassVar[str] = "Shazeer et al. 2017, equations 8 to 11"

    kind: Literal["smooth_load"] = "smooth_load"
    weight: Positive = 0.1
    """Factor of the loss."""

    def check(self, n_experts: int, top_k: int) -> None:
        if top_k >= n_experts:
            raise ValueError(
                f"every token goes to all {n_experts} experts, so their load is equal; leave smooth_load out"
            )

    def sums(self, routing: Routing, places: Places, n_experts: int) -> Sums:
        assert routing.logits_NE is not None and routing.noise is not None and routing.top_k is not None
        best_NK = routing.logits_NE.topk(routing.top_k + 1, dim=-1).values
        # Of the others, the k-th highest: without an expert that is among the k, the one behind it moves up.
        last_N1, next_N1 = best_NK[:, -2:-1], best_NK[:, -1:]
        threshold_NE = torch.where(routing.logits_NE >= last_N1, next_N1, last_N1)
        z_NE = (routing.noise.clean_NE - threshold_NE) / routing.noise.std_NE.clamp(min=1e-10)
        return {"load": summed(0.5 * (1 + torch.erf(z_NE / math.sqrt(2))), places.valid_N)}

    def loss(self, sums: Sums, load_E: Tensor, n_tokens: Tensor) -> Tensor:
        return self.weight * squared_variation(sums["load"])
