"""Every expert computes mixtures of tokens.

Shapes: N tokens, D d_model, E experts, P slots of an expert, S = E·P, G documents, L tokens of the longest.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sublayer.config import Count
from sublayer.model.experts.router.base import Experts, Router, RouterConfig, Team
from sublayer.model.experts.routing import Places, Routing
from sublayer.model.initialise import Constant, Normal, Rule
from sublayer.model.part import Direction, StackShape
from sublayer.model.precision import at_least_float32, without_autocast


@RouterConfig.registry.register
class SoftConfig(RouterConfig):
    """Each expert computes some mixtures of a document's tokens, and each token reads a mixture of what comes out."""

    paper: ClassVar[str] = "Puigcerver et al. 2024, equations 1 to 3 and section 2.3"
    directions: ClassVar[frozenset[Direction]] = frozenset({"bidirectional"})
    chooses: ClassVar[Literal["token", "expert", "none"]] = "none"

    kind: Literal["soft"] = "soft"
    slots: Count | None = None
    """Mixtures that each expert computes of a document; left out, max_length / n_experts, rounded up: as many in all as
    the longest document has tokens."""

    def settled(self, shape: StackShape, n_experts: int, top_k: int) -> Self:
        return self.model_copy(update={"slots": self.slots or -(-shape.max_length // n_experts)})

    def token_flops(self, weights: Mapping[str, tuple[int, ...]]) -> float:
        """Three products with as many numbers: logits, mixtures of tokens, and mixtures of outputs."""
        return 3 * super().token_flops(weights)

    def build(self, shape: StackShape, team: Team) -> "Soft":
        return Soft(self, shape, team)


class Soft(Router):
    """Slots softmax_tokens(x̂ Φ)ᵀ x, outputs softmax_slots(x̂ Φ) y, with x̂ and the columns of Φ of length 1 and a
    learned scale."""

    def __init__(self, config: SoftConfig, shape: StackShape, team: Team) -> None:
        super().__init__(team)
        assert config.slots is not None
        self.slots = config.slots
        self.weight = nn.Parameter(torch.empty(team.n_experts * config.slots, shape.d_model))
        self.scale = nn.Parameter(torch.empty(1))
        self._std = shape.std(shape.d_model)

    def through(self, x_ND: Tensor, places: Places, experts: Experts) -> tuple[Tensor, Routing | None, Tensor | None]:
        grouped = _Documents.of(places)
        with without_autocast(x_ND):
            wide_ND = at_least_float32(x_ND)
            direction_SD = F.normalize(self.weight.to(wide_ND.dtype), dim=-1)
            logits_NS = F.normalize(wide_ND, dim=-1) @ (self.scale.to(wide_ND.dtype)[:, None] * direction_SD).T
            combine_GLS = grouped.rows(logits_NS.softmax(-1))
            logits_GLS = grouped.rows(logits_NS)
            if grouped.there_GL is not None:
                logits_GLS = logits_GLS.masked_fill(~grouped.there_GL[..., None], torch.finfo(logits_NS.dtype).min)
            slot_GSD = logits_GLS.softmax(1).mT @ grouped.rows(wide_ND)
            # Sorted by expert, as all experts take their rows.
            shape = (len(slot_GSD), self.team.n_experts, self.slots, slot_GSD.shape[2])
            slot_GEPD = slot_GSD.view(shape)
            slot_MD = slot_GEPD.transpose(0, 1).flatten(0, 2)
            per = len(slot_GSD) * self.slots
        count_E = torch.full((self.team.n_experts,), per, dtype=torch.int64, device=x_ND.device)
        y_MD = experts(slot_MD.to(x_ND.dtype), count_E)
        with without_autocast(x_ND):
            y_EGPD = y_MD.view(shape[1], shape[0], *shape[2:])
            y_GSD = y_EGPD.transpose(0, 1).flatten(1, 2)
            y_GLD = combine_GLS @ y_GSD.to(combine_GLS.dtype)
        return grouped.tokens(y_GLD).to(y_MD.dtype), None, None

    def initial_values(self) -> Mapping[str, Rule]:
        return {"weight": Normal(self._std), "scale": Constant(1.0)}


class _Documents:
    """Tokens by document, [G, L, …] instead of [N, …].

    Args:
        shape: (G, L).
        place_N: where each token goes among G·L; None where they stand so already.
        there_N: which tokens are no padding.
    """

    def __init__(self, shape: tuple[int, int], place_N: Tensor | None = None, there_N: Tensor | None = None) -> None:
        self.shape, self._place_N, self._there_N = shape, place_N, there_N
        self.there_GL: Tensor | None = None
        if place_N is not None and there_N is not None:
            flat = torch.zeros(shape[0] * shape[1], dtype=torch.bool, device=place_N.device)
            self.there_GL = flat.index_put((place_N[there_N],), there_N[there_N]).view(shape)

    @classmethod
    def of(cls, places: Places) -> "_Documents":
        document_N = places.documents_N()
        if document_N is None:
            return cls(places.shape)
        try:
            there_N = document_N >= 0
            length_D = torch.bincount(document_N[there_N], minlength=1)
            longest = max(1, int(length_D.max()))
        except NotImplementedError:  # numbers cannot be looked at in a rehearsal of memory
            return cls(places.shape)
        # Documents stand together and in order, so a token's place in its own is how many valid ones came before.
        before_D = length_D.cumsum(0) - length_D
        count_N = there_N.long().cumsum(0) - 1
        number_N = document_N.clamp(min=0)
        place_N = number_N * longest + (count_N - before_D[number_N])
        return cls((len(length_D), longest), place_N, there_N)

    def rows(self, value_ND: Tensor) -> Tensor:
        """[N, D] as [G, L, D], zeros where there is no token."""
        if self._place_N is None or self._there_N is None:
            return value_ND.view(*self.shape, value_ND.shape[1])
        flat = value_ND.new_zeros(self.shape[0] * self.shape[1], value_ND.shape[1])
        return flat.index_put((self._place_N[self._there_N],), value_ND[self._there_N]).view(
            *self.shape, value_ND.shape[1]
        )

    def tokens(self, value_GLD: Tensor) -> Tensor:
        """[G, L, D] as [N, D], zeros at padding."""
        flat = value_GLD.flatten(0, 1)
        if self._place_N is None or self._there_N is None:
            return flat
        taken_ND = flat[self._place_N.where(self._there_N, self._place_N.new_zeros(()))]
        return taken_ND.where(self._there_N[:, None], taken_ND.new_zeros(()))
