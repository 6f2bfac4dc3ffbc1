"""Each token goes to the k experts with the highest scores.

Shapes: N tokens, D d_model, E experts, K top_k, G groups.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sublayer.config import Count, Flag, Positive, Probability
from sublayer.model.experts.router.base import Router, RouterConfig, Team
from sublayer.model.experts.routing import Noise, Places, Routing
from sublayer.model.initialise import Constant, Normal, Rule
from sublayer.model.part import StackShape
from sublayer.model.precision import at_least_float32, without_autocast


@RouterConfig.registry.register
class TopKConfig(RouterConfig):
    """Each token goes to the k experts that a learned matrix scores highest; their scores weight their outputs."""

    paper: ClassVar[str] = (
        "Fedus et al. 2022, equations 1 and 2; Jiang et al. 2024, section 2.1; DeepSeek-AI 2024, equations 12 to 16"
    )
    chooses: ClassVar[Literal["token", "expert", "none"]] = "token"
    balances: ClassVar[frozenset[str]] = frozenset({"load", "importance", "z_loss", "loss_free"})
    shorthands: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    kind: Literal["top_k"] = "top_k"
    scoring: Literal["softmax", "softmax_after", "sigmoid"] = "softmax"
    """What makes scores of logits: a softmax over all experts (Switch, OLMoE), one over the chosen ones alone
    (Mixtral), or a sigmoid of each by itself (DeepSeek-V3)."""
    renormalise: Flag | None = None
    """Divide the weights of the chosen experts by their sum; left out, where there are several.  After `softmax_after`
    they add up to 1 as they are."""
    scale: Positive = 1.0
    """Factor of all weights."""
    bias: Flag = False
    """Add a learned bias to the logits (gpt-oss)."""
    jitter: Probability = 0.0
    """In training, what the router reads is multiplied by numbers between 1 − jitter and 1 + jitter (Switch, section
    2.3)."""
    groups: Count | None = None
    """Groups of equal size that the experts are divided into, of which a token chooses first (DeepSeek-V3, section
    2.1.2); left out, none."""
    kept_groups: Count | None = None
    """How many groups a token may choose experts from: those whose two highest scores add up to the most."""

    def settled(self, shape: StackShape, n_experts: int, top_k: int) -> Self:
        after = self.scoring == "softmax_after"
        if after and self.renormalise is not None:
            raise ValueError(
                "renormalise has no effect with scoring: softmax_after, whose weights add up to 1; drop it"
            )
        renormalise = not after and (top_k > 1 if self.renormalise is None else self.renormalise)
        if top_k == 1 and n_experts > 1 and (renormalise or after):
            raise ValueError(
                "the weight of a single expert would always be 1, and the router would learn nothing from it; choose "
                "scoring: softmax or sigmoid with renormalise: false, or top_k of at least 2"
            )
        self._check_groups(n_experts, top_k)
        return self.model_copy(update={} if after else {"renormalise": renormalise})

    def _check_groups(self, n_experts: int, top_k: int) -> None:
        if (self.groups is None) != (self.kept_groups is None):
            raise ValueError("groups and kept_groups belong together; set both or neither")
        if self.groups is None or self.kept_groups is None:
            return
        if n_experts % self.groups:
            raise ValueError(f"groups ({self.groups}) does not divide n_experts ({n_experts}); choose a divisor")
        if self.kept_groups > self.groups:
            raise ValueError(f"kept_groups ({self.kept_groups}) is more than there are groups ({self.groups})")
        if self.kept_groups == self.groups:
            raise ValueError(
                f"groups and kept_groups have no effect when all {self.groups} groups are kept; lower kept_groups, or "
                "leave both out"
            )
        size = n_experts // self.groups
        if top_k > self.kept_groups * size:
            raise ValueError(
                f"top_k ({top_k}) is more than the {self.kept_groups * size} experts of {self.kept_groups} groups; "
                "raise kept_groups or lower top_k"
            )

    def needed(self, top_k: int) -> int:
        """Experts of each group that must be there, so that any groups that are kept have enough."""
        return -(-top_k // (self.kept_groups or 1))

    def spares(self, n_experts: int, top_k: int) -> bool:
        return self.needed(top_k) < n_experts // (self.groups or 1)

    def build(self, shape: StackShape, team: Team) -> "TopK":
        return TopK(self, shape, team)


class TopK(Router):
    """argtop-k of s(x W) + b, weighted by s(x W).  All in float32 at least."""

    def __init__(self, config: TopKConfig, shape: StackShape, team: Team) -> None:
        super().__init__(team)
        self.config = config
        self.weight = nn.Parameter(torch.empty(team.n_experts, shape.d_model))
        self.bias = nn.Parameter(torch.empty(team.n_experts)) if config.bias else None
        self._std = shape.std(shape.d_model)

    def route(self, x_ND: Tensor, places: Places) -> Routing:
        with without_autocast(x_ND):
            return self._routed(at_least_float32(x_ND))

    def _routed(self, x_ND: Tensor) -> Routing:
        config, top_k = self.config, self.team.top_k
        if self.training and config.jitter:
            x_ND = x_ND * torch.empty_like(x_ND).uniform_(1 - config.jitter, 1 + config.jitter)
        clean_NE = F.linear(x_ND, self.weight.to(x_ND.dtype), None if self.bias is None else self.bias.to(x_ND.dtype))
        logits_NE, noise = self.perturbed(clean_NE, x_ND)

        if config.scoring == "sigmoid":
            score_NE = logits_NE.sigmoid()
            probability_NE = score_NE / (score_NE.sum(-1, keepdim=True) + TINY)
        else:
            score_NE = probability_NE = logits_NE.softmax(-1)
        choice_NE = (logits_NE if config.scoring == "softmax_after" else score_NE).detach()
        if self.balance_bias is not None:
            choice_NE = choice_NE + self.balance_bias.to(choice_NE.dtype)
        choice_NE = self._open(choice_NE)

        # One more than are chosen, for the margin between the two, which is told in training.
        best = choice_NE.topk(min(top_k + self.training, self.team.n_experts), dim=-1)
        expert_NK = best.indices[:, :top_k]
        if config.scoring == "softmax_after":
            weight_NK = logits_NE.gather(1, expert_NK).softmax(-1)
        else:
            weight_NK = score_NE.gather(1, expert_NK)
            if config.renormalise:
                weight_NK = weight_NK / (weight_NK.sum(-1, keepdim=True) + TINY)
        return Routing.by_token(
            expert_NK,
            weight_NK if config.scale == 1.0 else weight_NK * config.scale,
            logits_NE=logits_NE,
            probability_NE=probability_NE,
            margin_N=_margin(best.values, top_k),
            noise=noise,
        )

    def perturbed(self, clean_NE: Tensor, x_ND: Tensor) -> tuple[Tensor, Noise | None]:
        """The logits with noise, and what it is."""
        return clean_NE, None

    def _open(self, choice_NE: Tensor) -> Tensor:
        """The scores that experts are chosen by, −∞ where one may not be."""
        config, groups = self.config, self.config.groups or 1
        choice_NGS = choice_NE.view(len(choice_NE), groups, self.team.n_experts // groups)
        if config.kept_groups is not None:
            # Of all experts, those left out too, with which a group may have a single one left, or none.
            best_NG = choice_NGS.topk(min(2, choice_NGS.shape[2]), dim=-1).values.sum(-1)
            kept_NJ = best_NG.topk(config.kept_groups, dim=-1).indices
            closed_NG = torch.ones_like(best_NG, dtype=torch.bool).scatter(1, kept_NJ, False)
            choice_NGS = choice_NGS.masked_fill(closed_NG[..., None], -torch.inf)
        if self.training and self.team.left_out:
            # As many as a token needs stay, whatever is drawn.
            draw_GS = torch.rand(choice_NGS.shape[1:], device=choice_NE.device)
            last_G1 = draw_GS.topk(config.needed(self.team.top_k)).values[:, -1:]
            choice_NGS = choice_NGS.masked_fill((draw_GS < self.team.left_out) & (draw_GS < last_G1), -torch.inf)
        return choice_NGS.view_as(choice_NE)

    def initial_values(self) -> Mapping[str, Rule]:
        return {"weight": Normal(self._std), "bias": Constant(0.0)}


TINY = 1e-20
"""Added to sums of scores that are divided by: those of sigmoids may all be 0."""


def _margin(best_NK: Tensor, top_k: int) -> Tensor | None:
    """How far the first that was not chosen is below the last that was; 0 where there was no choice."""
    if best_NK.shape[1] <= top_k:
        return None
    margin_N = best_NK[:, top_k - 1] - best_NK[:, top_k]
    return margin_N.where(margin_N.isfinite(), margin_N.new_zeros(()))
