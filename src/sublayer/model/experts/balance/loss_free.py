"""Balance without a loss."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from sublayer.config import Positive
from sublayer.model.experts.balance.base import BalanceConfig


@BalanceConfig.registry.register
class LossFreeConfig(BalanceConfig):
    """A bias on the scores that experts are chosen by, raised after each optimizer step where an expert had too few
    tokens, and lowered where it had too many."""

    paper: ClassVar[str] = "Wang et al. 2024, algorithm 1"
    by_loss: ClassVar[bool] = False

    kind: Literal["loss_free"] = "loss_free"
    rate: Positive = 0.001
    """What a bias changes by in a step."""

    def check(self, n_experts: int, top_k: int) -> None:
        if top_k >= n_experts:
            raise ValueError(
                f"every token goes to all {n_experts} experts, so their load is equal; leave loss_free out"
            )

    def changed(self, bias_E: Tensor, load_E: Tensor) -> Tensor:
        """b + rate · sign(mean load − load)."""
        load_E = load_E.to(bias_E.dtype)
        return bias_E + self.rate * torch.sign(load_E.mean() - load_E)
