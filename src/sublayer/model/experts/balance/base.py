"""What keeps experts in balance: a loss, as a function of sums over tokens, or a change after each step.

Shapes: N tokens, E experts.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator
from torch import Tensor

from sublayer.model.experts.routing import Places, Routing
from sublayer.model.sublayer import Scope
from sublayer.registry import PartConfig, Registry

Sums = Mapping[str, Tensor]


class BalanceConfig(PartConfig):
    """Base of the balances."""

    registry: ClassVar[Registry[Any]] = Registry("balance")

    by_loss: ClassVar[bool] = True
    """Whether it is a loss; else it changes the scores that experts are chosen by."""

    @classmethod
    def abilities(cls) -> tuple[str, ...]:
        return ("an auxiliary loss" if cls.by_loss else "no loss",)

    @property
    def label(self) -> str:
        """The name of its loss."""
        return self.kind_name()

    @property
    def meant_for(self) -> Scope:
        """How much of a step it balances."""
        return "micro_batch"

    def check(self, n_experts: int, top_k: int) -> None:
        """Refuse what it cannot balance.

        Raises:
            ValueError: with the reason.
        """

    def sums(self, routing: Routing, places: Places, n_experts: int) -> Sums:
        """Sums over the tokens that are no padding, by name, that `loss` is made from."""
        return {}

    def loss(self, sums: Sums, load_E: Tensor, n_tokens: Tensor) -> Tensor:
        """The loss, times its weight.

        Args:
            sums: of all tokens that it is meant for.
            load_E: their assignments by expert.
            n_tokens: how many they are.
        """
        raise NotImplementedError


def _listed(value: Any) -> Any:
    if value is None or value == "none":
        return ()
    return value if isinstance(value, list | tuple) else (value,)


Balances = Annotated[tuple[Annotated[BalanceConfig, BalanceConfig.registry.choice()], ...], BeforeValidator(_listed)]
"""Any number of them; one may stand by itself, and `none` for none."""
