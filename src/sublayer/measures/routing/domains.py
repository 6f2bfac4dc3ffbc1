"""Whether experts are specialised by domain.

The mutual information of an assignment's expert and its token's domain.  The baseline shuffles the domains over whole
documents, since the tokens of a document go to much the same experts whatever it is about: shuffled over tokens, any
model would look specialised.

Shapes: U units, D domains, E experts, P permutations.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sublayer.measures.routing.decisions import Decisions
from sublayer.measures.routing.information import Information, entropy, mutual_information, set_beside

PERMUTATIONS = 1000

FEWEST_DOCUMENTS = 8
"""Documents that every domain must have for labels to be shuffled over documents."""

AT_ONCE = 4_000_000
"""Numbers of shuffled labels that stand in memory at once."""


@dataclass(frozen=True)
class Domains:
    """How a layer's experts share out the domains.

    Attributes:
        count_DE: assignments by domain and expert.
        information: of expert and domain; None where there is one domain alone.
        unit: over what labels were shuffled: "document", or "stretch", the part of a document that stands in a row,
            where a domain has few documents.  Stretches of a document are alike, so that a baseline over them is low.
        units: how many there are.
    """

    count_DE: NDArray[np.int64]
    information: Information | None
    unit: str
    units: int

    @property
    def share_DE(self) -> NDArray[np.float64]:
        """Of a domain's assignments, by domain and expert; rows add up to 1."""
        share: NDArray[np.float64] = self.count_DE / np.maximum(1, self.count_DE.sum(1, keepdims=True))
        return share

    def tree(self) -> dict[str, Any]:
        """All figures, for JSON, but for the names of the domains."""
        information = None if self.information is None else self.information.tree()
        return {"information": information, "shuffled_over": {"unit": self.unit, "units": self.units}}


def domains(decisions: Decisions, permutations: int = PERMUTATIONS, seed: int = 0) -> Domains:
    """Shares of domains by expert, and what an expert tells of the domain, in nats.

    The most that it can be is the lesser of the domains' entropy and of what knowing the token itself would tell of
    the expert; at top_k 1 that is the entropy of the load.
    """
    tokens = decisions.tokens
    n_domains = len(tokens.domains)
    count_DE = decisions.table(tokens.domain_N, n_domains)
    unit, unit_N = _units(decisions)
    n_units = int(unit_N.max()) + 1
    if n_domains < 2:
        return Domains(count_DE, None, unit, n_units)
    count_UE = decisions.table(unit_N, n_units)
    domain_U = np.zeros(n_units, dtype=np.int64)
    domain_U[unit_N] = tokens.domain_N
    shuffled_P = _shuffled(count_UE, domain_U, n_domains, permutations, seed)
    most = min(float(entropy(count_DE.sum(1))), told_by_token(decisions))
    information = set_beside(float(mutual_information(count_DE)), most, shuffled_P)
    return Domains(count_DE, information, unit, n_units)


def told_by_token(decisions: Decisions) -> float:
    """What knowing a token tells of an assignment's expert, in nats: H(E) − Σ_t (k_t/M) ln k_t for k_t experts of the
    token t and M assignments in all.  Nothing that is known of tokens tells more (the data processing inequality)."""
    token_M, expert_M = decisions.assignments()
    experts_N = np.bincount(token_M, minlength=len(decisions.tokens))
    within = float((experts_N * np.log(np.maximum(experts_N, 1))).sum()) / max(1, len(token_M))
    return max(0.0, float(entropy(np.bincount(expert_M, minlength=decisions.n_experts))) - within)


def _units(decisions: Decisions) -> tuple[str, NDArray[np.int64]]:
    tokens = decisions.tokens
    pairs = np.unique(tokens.document_N * len(tokens.domains) + tokens.domain_N)
    documents = np.bincount(pairs % len(tokens.domains), minlength=len(tokens.domains))
    if documents.min() >= FEWEST_DOCUMENTS:
        return "document", tokens.document_N
    return "stretch", tokens.stretch_N


def _shuffled(
    count_UE: NDArray[np.int64], domain_U: NDArray[np.int64], n_domains: int, permutations: int, seed: int
) -> NDArray[np.float64]:
    """The information with domains shuffled over units, [P]."""
    draw = np.random.default_rng(seed)
    count_UE = count_UE.astype(np.float64)
    at_once = max(1, AT_ONCE // (n_domains * len(domain_U)))
    found = []
    for begin in range(0, permutations, at_once):
        n_now = min(at_once, permutations - begin)
        label_PU = draw.permuted(np.broadcast_to(domain_U, (n_now, len(domain_U))), axis=1)
        one_PDU = label_PU[:, None, :] == np.arange(n_domains)[:, None]
        found.append(mutual_information(one_PDU.astype(np.float64) @ count_UE))
    return np.concatenate(found)
