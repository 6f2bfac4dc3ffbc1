"""What a router is to the experts behind it.

Shapes: N tokens, D d_model, E experts, M assignments sorted by expert.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from sublayer.model.experts.capacity import Capacity
from sublayer.model.experts.dispatch import dispatched
from sublayer.model.experts.routing import Places, Routing
from sublayer.model.part import ModelPart, StackShape
from sublayer.registry import Registry

Experts = Callable[[Tensor, Tensor], Tensor]
"""Rows x_MD sorted by expert, and how many of them are each one's (int64 [E]), to the experts' outputs [M, D]."""


@dataclass(frozen=True)
class Team:
    """The experts that a router chooses from.

    Attributes:
        n_experts: how many there are.
        top_k: how many a token goes to, on average; 0 where a router has no such number.
        biased: whether a bias that balances them is added to the scores that they are chosen by.
        left_out: probability of leaving an expert out of a batch, in training.
        capacity: how many tokens each takes.
    """

    n_experts: int
    top_k: int
    biased: bool = False
    left_out: float = 0.0
    capacity: Capacity | None = None


class RouterConfig(ModelPart):
    """Base of the routers."""

    registry: ClassVar[Registry[Any]] = Registry("router", default_kind="top_k")

    chooses: ClassVar[Literal["token", "expert", "none"]]
    """Who chooses: each token its experts, each expert its tokens, or nobody, since all is mixed."""

    balances: ClassVar[frozenset[str]] = frozenset()
    """The kinds of balance that it can learn by."""

    @classmethod
    def abilities(cls) -> tuple[str, ...]:
        who = {"token": "tokens choose experts", "expert": "experts choose tokens", "none": "every expert is used"}
        balanced = f"balanced by {', '.join(sorted(cls.balances))}" if cls.balances else "needs no balance"
        return (*super().abilities(), who[cls.chooses], balanced)

    def spares(self, n_experts: int, top_k: int) -> bool:
        """Whether an expert can be left out and another one takes its place."""
        return False

    def settled(self, shape: StackShape, n_experts: int, top_k: int) -> Self:
        """This config with what was left out filled in.

        Raises:
            ValueError: when it does not fit the stack, or that many experts.
        """
        return self

    def build(self, shape: StackShape, team: Team) -> "Router":
        """The module."""
        raise NotImplementedError


RouterChoice = Annotated[RouterConfig, RouterConfig.registry.choice()]


class Router(nn.Module):
    """Sends tokens through experts."""

    no_hidden_matrices: ClassVar[tuple[str, ...]] = ("weight", "noise_weight")
    """A router classifies: each row is one expert's.  (See `Sublayer.no_hidden_matrices`.)"""

    balance_bias: Tensor | None
    """[E] what is added to scores when experts are chosen, and not when their outputs are weighted; no gradient."""

    def __init__(self, team: Team) -> None:
        super().__init__()
        self.team = team
        self.register_buffer("balance_bias", torch.zeros(team.n_experts) if team.biased else None)

    def through(self, x_ND: Tensor, places: Places, experts: Experts) -> tuple[Tensor, Routing | None, Tensor | None]:
        """What the experts make of the tokens [N, D]; what was decided; and how many assignments were dropped."""
        routing = self.route(x_ND, places)
        if self.team.capacity is None:
            return dispatched(x_ND, routing, self.team.n_experts, experts), routing, None
        kept, dropped = self.team.capacity.kept(routing, self.team.n_experts, places.valid_N, self.training)
        return dispatched(x_ND, kept, self.team.n_experts, experts), routing, dropped

    def route(self, x_ND: Tensor, places: Places) -> Routing:
        """Which experts compute which tokens."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # A model in bfloat16 decides as it did in float32, where experts that are nearly equal are told apart.
        kept = {name: tensor.detach() for name, tensor in self._tensors() if tensor.is_floating_point()}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, tensor in self._tensors():
            before = kept.get(name)
            if before is not None and torch.finfo(tensor.dtype).bits < torch.finfo(torch.float32).bits:
                tensor.data = before.to(tensor.device)
        return self

    def _tensors(self) -> list[tuple[str, Tensor]]:
        return [*self.named_parameters(), *self.named_buffers()]
