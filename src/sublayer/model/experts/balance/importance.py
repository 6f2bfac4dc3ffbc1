"""The importance loss.

Shapes: N tokens, E experts.
"""

from typing import ClassVar, Literal

from torch import Tensor

from sublayer.config import Positive
from sublayer.model.experts.balance.base import BalanceConfig, Sums
from sublayer.model.experts.routing import Places, Routing


@BalanceConfig.registry.register
class ImportanceConfig(BalanceConfig):
    """The squared coefficient of variation of the experts' weights, each summed over tokens; 0 when balanced."""

    paper: ClassVar[str] = "Shazeer et al. 2017, equations 6 and 7"

    kind: Literal["importance"] = "importance"
    weight: Positive = 0.1
    """Factor of the loss."""

    def sums(self, routing: Routing, places: Places, n_experts: int) -> Sums:
        weight_M = routing.weight_M
        if places.valid_N is not None:
            weight_M = weight_M.where(places.valid_N[routing.token_M], weight_M.new_zeros(()))
        return {"importance": weight_M.new_zeros(n_experts).scatter_add(0, routing.expert_M, weight_M)}

    def loss(self, sums: Sums, load_E: Tensor, n_tokens: Tensor) -> Tensor:
        return self.weight * squared_variation(sums["importance"])


def squared_variation(value_E: Tensor) -> Tensor:
    """Variance over squared mean."""
    return value_E.var(correction=0) / (value_E.mean().square() + 1e-20)
