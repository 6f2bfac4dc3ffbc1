"""Each expert chooses its tokens.

Shapes: B rows, T tokens, N = B·T, D d_model, E experts, C tokens of an expert, M assignments.
"""

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sublayer.model.experts.router.base import Router, RouterConfig, Team
from sublayer.model.experts.routing import Places, Routing
from sublayer.model.initialise import Normal, Rule
from sublayer.model.part import Direction, StackShape
from sublayer.model.precision import at_least_float32, without_autocast


@RouterConfig.registry.register
class ExpertChoiceConfig(RouterConfig):
    """Each expert takes the tokens of a document that score highest with it, so that all have as many.

    Of a document of n tokens, ⌈top_k · n / n_experts⌉: a token goes to top_k experts on average, and to any number.
    """

    paper: ClassVar[str] = "Zhou et al. 2022, section 3.2"
    directions: ClassVar[frozenset[Direction]] = frozenset({"bidirectional"})
    chooses: ClassVar[Literal["token", "expert", "none"]] = "expert"
    balances: ClassVar[frozenset[str]] = frozenset({"z_loss"})

    kind: Literal["expert_choice"] = "expert_choice"

    def build(self, shape: StackShape, team: Team) -> "ExpertChoice":
        return ExpertChoice(shape, team)


class ExpertChoice(Router):
    """top-C over tokens of softmax(x W), whose values are the weights."""

    def __init__(self, shape: StackShape, team: Team) -> None:
        super().__init__(team)
        self.weight = nn.Parameter(torch.empty(team.n_experts, shape.d_model))
        self._std = shape.std(shape.d_model)

    def route(self, x_ND: Tensor, places: Places) -> Routing:
        with without_autocast(x_ND):
            x_ND = at_least_float32(x_ND)
            logits_NE = F.linear(x_ND, self.weight.to(x_ND.dtype))
            score_NE = logits_NE.softmax(-1)
        # In float64, scores of equal tokens that differ in rounding alone become equal, and the first one is taken.
        token_M, expert_M = self._chosen(score_NE.detach().float(), places)
        return Routing(token_M, expert_M, score_NE[token_M, expert_M], logits_NE=logits_NE, probability_NE=score_NE)

    def _chosen(self, score_NE: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        """The tokens and experts of all assignments."""
        document_N = places.documents_N()
        if document_N is not None:
            try:
                return self._of_documents(score_NE, document_N)
            except NotImplementedError:  # numbers cannot be looked at in a rehearsal of memory
                pass
        n_rows, length = places.shape
        each = self._taken(length)
        score_BTE = score_NE.view(n_rows, length, score_NE.shape[1])
        token_BCE = score_BTE.argsort(dim=1, descending=True, stable=True)[:, :each]  # of equal ones the first
        token_BCE = token_BCE + length * torch.arange(n_rows, device=score_NE.device)[:, None, None]
        expert_BCE = torch.arange(score_NE.shape[1], device=score_NE.device).expand_as(token_BCE)
        return token_BCE.flatten(), expert_BCE.flatten()

    def _taken(self, length: int) -> int:
        return min(length, math.ceil(self.team.top_k * length / self.team.n_experts))

    def _of_documents(self, score_NE: Tensor, document_N: Tensor) -> tuple[Tensor, Tensor]:
        """The same where documents are of any length: each token's rank among those of its document."""
        there_N = document_N >= 0
        length_D = torch.bincount(document_N[there_N], minlength=1)
        taken_D = -(-self.team.top_k * length_D // self.team.n_experts)
        best_NE = score_NE.argsort(dim=0, descending=True, stable=True)
        by_document_NE = document_N[best_NE].argsort(dim=0, stable=True)  # padding, −1, comes first
        token_NE = best_NE.gather(0, by_document_NE)
        begin_D = length_D.cumsum(0) - length_D + (~there_N).sum()
        of_NE = document_N[token_NE]
        rank_NE = torch.arange(len(document_N), device=document_N.device)[:, None] - begin_D[of_NE.clamp(min=0)]
        kept_NE = (of_NE >= 0) & (rank_NE < taken_D[of_NE.clamp(min=0)])
        place_M, expert_M = kept_NE.nonzero(as_tuple=True)
        return token_NE[place_M, expert_M], expert_M

    def initial_values(self) -> Mapping[str, Rule]:
        return {"weight": Normal(self._std)}
