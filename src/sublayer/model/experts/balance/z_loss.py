"""The router z-loss.

Shapes: N tokens, E experts.
"""

from typing import ClassVar, Literal

from torch import Tensor

from sublayer.config import Positive
from sublayer.model.experts.balance.base import BalanceConfig, Sums
from sublayer.model.experts.routing import Places, Routing, summed


@BalanceConfig.registry.register
class ZLossConfig(BalanceConfig):
    """The mean square of the logits' log-sum-exp: it keeps them small, and balances nothing by itself."""

    paper: ClassVar[str] = "Zoph et al. 2022, equation 5"

    kind: Literal["z_loss"] = "z_loss"
    weight: Positive = 0.001
    """Factor of the loss."""

    def sums(self, routing: Routing, places: Places, n_experts: int) -> Sums:
        assert routing.logits_NE is not None
        return {"square": summed(routing.logits_NE.logsumexp(-1).square(), places.valid_N)}

    def loss(self, sums: Sums, load_E: Tensor, n_tokens: Tensor) -> Tensor:
        return self.weight * sums["square"] / n_tokens.clamp(min=1)
