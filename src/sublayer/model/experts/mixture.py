"""A mixture of experts as a feed-forward.

Shapes: B rows, T tokens, N = B·T, D d_model, F d_ff, E experts.
"""

import math
from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sublayer.config import Config, Count, Flag, Probability, Whole
from sublayer.model.experts.balance import Balances
from sublayer.model.experts.balance.load import LoadConfig
from sublayer.model.experts.balance.loss_free import LossFreeConfig
from sublayer.model.experts.bank import Bank, as_expert
from sublayer.model.experts.capacity import CapacityConfig
from sublayer.model.experts.router import RouterChoice, Team
from sublayer.model.experts.router.top_k import TopKConfig
from sublayer.model.experts.routing import Places, Routing, summed
from sublayer.model.feed_forward.base import FeedForwardChoice, FeedForwardConfig
from sublayer.model.feed_forward.gated import GatedConfig
from sublayer.model.initialise import Normal, Rule
from sublayer.model.names import below
from sublayer.model.part import CacheExact, ModelPart, StackShape
from sublayer.model.report import EMPTY, Report
from sublayer.model.state import Memory
from sublayer.model.sublayer import Context, Scope, Sublayer

MOST_EXPERTS = 512
MULTIPLE = 32
"""Widths of experts that are not given are multiples of this."""


class SharedConfig(Config):
    """Experts that compute every token, beside those that the router chooses (DeepSeek-AI 2024, section 2.1.2)."""

    n_experts: Count = 1
    """How many; together they are one feed-forward as wide as all of them."""
    d_ff: Count | None = None
    """Width of each; left out, that of the others."""
    gate: Flag = False
    """Multiply their output by a sigmoid of the token's own (Qwen2-MoE)."""


@FeedForwardConfig.registry.register
class ExpertsConfig(FeedForwardConfig):
    """Many feed-forwards, of which a router chooses some for each token: more parameters at the same FLOPs."""

    paper: ClassVar[str] = "Shazeer et al. 2017; Fedus et al. 2022; fine-grained and shared: Dai et al. 2024"

    kind: Literal["experts"] = "experts"
    n_experts: Count = 8
    """How many there are to choose from, 512 at the most."""
    top_k: Count | None = None
    """How many each token goes to, on average where experts choose; left out, 2."""
    router: RouterChoice = TopKConfig()
    """How experts are chosen."""
    balance: Balances | None = None
    """What keeps the experts in balance; left out, the load-balancing loss with weight 0.01 where the router learns by
    it."""
    expert: FeedForwardChoice = GatedConfig()
    """What each expert is: dense or gated.  Its width, where left out, is that of such a feed-forward divided by the
    number of experts that compute a token, so that these are as large as that one (up to the next multiple of 32)."""
    shared: SharedConfig | None = None
    """Experts for every token, besides."""
    capacity: CapacityConfig | None = None
    """How many tokens an expert takes; left out, all that are sent to it (dropless)."""
    expert_dropout: Probability = 0.0
    """Probability of leaving out a whole expert for a batch in training: its tokens go to the next ones.  (Dropping
    hidden values inside experts, as Fedus et al. 2022, section 2.4, do in fine-tuning, is `expert.dropout`.)"""
    first_dense: Whole = 0
    """How many of the first layers have a feed-forward as in `dense` instead (DeepSeek-V2: 1)."""
    every: Count = 1
    """Behind those, every n-th layer has experts and the others a feed-forward as in `dense` (GShard: 2)."""
    dense: FeedForwardChoice | None = None
    """The feed-forward of the layers without experts; left out, one like an expert with its usual width."""

    @property
    def chosen(self) -> int:
        """How many experts compute a token, on average; 0 where all do, on mixtures."""
        return 0 if self.router.chooses == "none" else self.top_k or min(2, self.n_experts)

    def check_alone(self, chosen: ModelPart) -> None:
        usual = chosen if isinstance(chosen, ExpertsConfig) else ExpertsConfig()
        for name in ("first_dense", "every"):
            if getattr(self, name) != getattr(usual, name):
                raise ValueError(
                    f"{name} says which layers have experts, so a layer cannot choose it for itself; leave it out here"
                )

    def in_layer(self, layer: int, shape: StackShape) -> FeedForwardConfig:
        behind = layer - self.first_dense
        if behind >= 0 and (behind + 1) % self.every == 0:
            return self
        if self.first_dense + self.every > shape.n_layers:
            raise ValueError(
                f"no layer would have experts, as there are {shape.n_layers} layers, the first {self.first_dense} are "
                f"dense, and of the others each {self.every}. has some; lower first_dense or every"
            )
        if self.dense is not None:
            return self.dense
        usual: FeedForwardConfig = self.expert.model_copy(update={"d_ff": None})
        return usual

    def filled(self, shape: StackShape) -> Self:
        if self.n_experts > MOST_EXPERTS:
            raise ValueError(f"n_experts ({self.n_experts}) must be {MOST_EXPERTS} at the most")
        self._check_router(shape)
        top_k = self.chosen
        if top_k > self.n_experts:
            raise ValueError(f"top_k ({top_k}) is more than n_experts ({self.n_experts}); lower it")
        self._check_dense()
        try:
            router = self.router.settled(shape, self.n_experts, top_k)
        except ValueError as error:
            raise ValueError(f"router: {error}") from None
        if self.expert_dropout and top_k == self.n_experts:
            raise ValueError(
                f"expert_dropout has no effect, as every token needs all {self.n_experts} experts; leave it out, or "
                "lower top_k"
            )
        if self.expert_dropout and not router.spares(self.n_experts, top_k):
            raise ValueError(
                f"expert_dropout has no effect with this '{router.kind_name()}', where no other expert could take a "
                "token; leave it out"
            )
        expert = as_expert(self.expert)
        if expert.d_ff is None:
            together = max(1, top_k + (self.shared.n_experts if self.shared is not None else 0))
            whole = expert.filled(shape).d_ff
            assert whole is not None
            expert = expert.model_copy(update={"d_ff": -(-whole // (together * MULTIPLE)) * MULTIPLE})
        shared = self.shared
        if shared is not None:
            shared = shared.model_copy(update={"d_ff": shared.d_ff or expert.d_ff})
        return self.model_copy(
            update={
                "top_k": top_k or None,
                "router": router,
                "balance": self._balances(top_k),
                "expert": expert,
                "shared": shared,
            }
        )

    def _check_router(self, shape: StackShape) -> None:
        router = self.router
        if shape.direction not in router.directions:
            why = (
                "each expert chooses among a document's tokens, later ones too, and so a token's output would tell of "
                "what follows"
                if router.chooses == "expert"
                else "each expert reads mixtures of all tokens, later ones too"
            )
            raise ValueError(f"router: '{router.kind_name()}' is not for {shape.words}: {why}; choose top_k")
        if router.chooses == "none" and self.top_k is not None:
            raise ValueError(
                f"top_k has no effect, as with '{router.kind_name()}' every expert has a part in every token; leave it "
                "out, and set router.slots"
            )
        if self.capacity is not None and router.chooses != "token":
            raise ValueError(
                f"capacity has no effect with '{router.kind_name()}', whose experts all have as many tokens; leave it "
                "out"
            )
        limited = self.capacity is not None and self.capacity.evaluation_factor is not None
        if limited and self.capacity is not None and self.capacity.drop != "last" and shape.direction == "causal":
            raise ValueError(
                "capacity: which tokens weigh least would depend on what follows them, so in a decoder they cannot be "
                "dropped outside of training; set drop: last, or leave evaluation_factor out"
            )

    def _check_dense(self) -> None:
        if isinstance(self.dense, ExpertsConfig):
            raise ValueError("dense is what layers without experts have, and cannot be 'experts'; choose another")
        if self.dense is not None and self.first_dense == 0 and self.every == 1:
            raise ValueError(
                "dense has no effect, as every layer has experts; leave it out, or set first_dense or every"
            )

    def _balances(self, top_k: int) -> Balances:
        """The balances, the default filled in.

        Raises:
            ValueError: when one has no effect here, or stands twice.
        """
        router = self.router
        if self.balance is None:
            return (LoadConfig(),) if "load" in router.balances and top_k < self.n_experts else ()
        labels = [balance.label for balance in self.balance]
        for balance in self.balance:
            name = balance.kind_name()
            if name not in router.balances:
                known = ", ".join(sorted(router.balances)) or "none"
                raise ValueError(
                    f"balance: '{name}' has nothing to act on with the router '{router.kind_name()}'; choose {known}"
                )
            if labels.count(balance.label) > 1:
                raise ValueError(f"balance: '{balance.label}' stands there twice; keep one of them")
            try:
                balance.check(self.n_experts, top_k)
            except ValueError as error:
                raise ValueError(f"balance: {error}") from None
        return self.balance

    def cache_exact(self, shape: StackShape) -> CacheExact:
        if self.capacity is not None and self.capacity.evaluation_factor is not None:
            return CacheExact(reason="experts drop tokens by what stands beside them (capacity.evaluation_factor)")
        return CacheExact()

    def active_share(self, name: str) -> float:
        return self.chosen / self.n_experts if self.chosen and name.startswith("experts.") else 1.0

    def token_flops(self, weights: Mapping[str, tuple[int, ...]]) -> float:
        """As of any part; where experts read mixtures, of documents with as many tokens as there are mixtures."""
        flops = self.router.token_flops(below("router.", weights))
        flops += super().token_flops({name: size for name, size in weights.items() if name.startswith("shared")})
        return flops + _product_flops(weights) * max(1, self.chosen) / self.n_experts

    def idle_flops(self, weights: Mapping[str, tuple[int, ...]]) -> float:
        return _product_flops(weights) * (1 - self.chosen / self.n_experts) if self.chosen else 0.0

    def build(self, shape: StackShape) -> "Mixture":
        return Mixture(self, shape)


class Mixture(Sublayer):
    """Σ over a token's experts of weight · expert(x), and the shared experts' output."""

    no_hidden_matrices: ClassVar[tuple[str, ...]] = ("shared_gate.weight",)

    def __init__(self, config: ExpertsConfig, shape: StackShape) -> None:
        super().__init__()
        assert config.balance is not None
        self.config = config
        self.losses = [balance for balance in config.balance if balance.by_loss]
        self.loss_free = next((each for each in config.balance if isinstance(each, LossFreeConfig)), None)
        capacity = None if config.capacity is None else config.capacity.build()
        biased = self.loss_free is not None
        team = Team(config.n_experts, config.chosen, biased, config.expert_dropout, capacity)
        self.router = config.router.build(shape, team)
        self.experts = Bank(as_expert(config.expert), shape, config.n_experts)
        self.shared: Sublayer | None = None
        self.shared_gate: nn.Linear | None = None
        if config.shared is not None:
            assert config.shared.d_ff is not None
            wide = as_expert(config.expert).model_copy(update={"d_ff": config.shared.n_experts * config.shared.d_ff})
            self.shared = wide.build(shape)
            self.shared_gate = nn.Linear(shape.d_model, 1, bias=False) if config.shared.gate else None
        self._std = shape.std(shape.d_model)

    def forward(self, x_BTD: Tensor, context: Context, memory: Memory | None = None) -> tuple[Tensor, Report]:
        places = Places((x_BTD.shape[0], x_BTD.shape[1]), context.layout, context.tokens_BT)
        y_ND, routing, dropped = self.router.through(x_BTD.flatten(0, 1), places, self.experts)
        y_BTD = y_ND.view(x_BTD.shape)
        if self.shared is not None:
            shared_BTD, _ = self.shared(x_BTD, context)
            if self.shared_gate is not None:
                shared_BTD = shared_BTD * F.sigmoid(self.shared_gate(x_BTD))
            y_BTD = y_BTD + shared_BTD
        return y_BTD, self._told(routing, places, dropped, context)

    def _told(self, routing: Routing | None, places: Places, dropped: Tensor | None, context: Context) -> Report:
        """Sums and counts in training, and decisions where they are wanted."""
        wanted = "routing" in context.want
        if routing is None or not (self.training or wanted):
            return EMPTY
        decisions = routing.decisions(places, self.config.n_experts) if wanted else {}
        if not self.training:
            return Report(routing=decisions)
        sums = {
            f"{balance.label}.{name}": value
            for balance in self.losses
            for name, value in balance.sums(routing, places, self.config.n_experts).items()
        }
        return Report(sums=sums, counts=self._counts(routing, places, dropped), routing=decisions)

    @torch.no_grad()
    def _counts(self, routing: Routing, places: Places, dropped: Tensor | None) -> dict[str, Tensor]:
        """Over tokens that are no padding: how many there are; assignments by expert, and those dropped; the sums of
        the entropy of their probabilities in nats, and of the margin by which experts were chosen."""
        valid_N = places.valid_N
        load_E = routing.load_E(self.config.n_experts, valid_N)
        n_tokens = load_E.new_full((), places.shape[0] * places.shape[1]) if valid_N is None else valid_N.sum()
        counts = {"tokens": n_tokens, "load": load_E}
        if dropped is not None:
            counts["dropped"] = dropped
        if routing.probability_NE is not None:
            counts["entropy"] = summed(torch.special.entr(routing.probability_NE).sum(-1), valid_N)
        if routing.margin_N is not None:
            counts["margin"] = summed(routing.margin_N, valid_N)
        return counts

    def scopes(self) -> frozenset[Scope]:
        return frozenset(balance.meant_for for balance in self.losses)

    def auxiliary(self, told: Report, scope: Scope | None = None) -> dict[str, Tensor]:
        losses = {}
        for balance in self.losses if told.sums else ():  # none of an encoder in evaluation mode, say
            if scope is None or balance.meant_for == scope:
                sums = below(f"{balance.label}.", told.sums)
                losses[balance.label] = balance.loss(sums, told.counts["load"], told.counts["tokens"])
        return losses

    @torch.no_grad()
    def adjust(self, counts: Mapping[str, Tensor]) -> None:
        bias_E = self.router.balance_bias
        if self.loss_free is not None and bias_E is not None:
            bias_E.copy_(self.loss_free.changed(bias_E, counts["load"]))

    def initial_values(self) -> Mapping[str, Rule]:
        return {"shared_gate.weight": Normal(self._std)}


def _product_flops(weights: Mapping[str, tuple[int, ...]]) -> float:
    """FLOPs of a token that goes to all experts."""
    return sum(2 * math.prod(size) for name, size in weights.items() if name.startswith("experts.") and len(size) == 3)
