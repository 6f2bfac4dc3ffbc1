"""Whether experts are specialised by vocabulary.

The mutual information of an assignment's expert and its token's id, and for each expert the tokens that come to it most
often of all times that they come (Muennighoff et al. 2024, "OLMoE", section 5.4, vocabulary specialisation).

Shapes: N tokens, M assignments, X different ids, E experts.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sublayer.measures.routing.decisions import Decisions
from sublayer.measures.routing.domains import told_by_token
from sublayer.measures.routing.information import Information, entropy, mutual_information, set_beside, x_log_x

PERMUTATIONS = 100
"""Of tens of thousands of tokens they differ little from one another, and take longer than of documents."""

FEWEST = 10
"""How often a token must come to be named: of fewer times, all may go to an expert by chance."""

NAMED = 8
"""Tokens named of each expert."""


@dataclass(frozen=True, slots=True)
class Specialised:
    """A token and an expert.

    Attributes:
        token: its id.
        share: how much of the times that it came it went to this expert.
        times: how often it came.
    """

    token: int
    share: float
    times: int


@dataclass(frozen=True)
class Vocabulary:
    """How a layer's experts share out the vocabulary.

    Attributes:
        information: of expert and token id.  Its baseline is far above 0, as most ids come seldom.
        specialised: for each expert the tokens of which it has the largest share, largest first.
        share_E: of all tokens that went to each expert: what a token's share is set beside.
    """

    information: Information
    specialised: tuple[tuple[Specialised, ...], ...]
    share_E: NDArray[np.float64]


def vocabulary(decisions: Decisions, permutations: int = PERMUTATIONS, seed: int = 0) -> Vocabulary:
    """What a token's id tells of its experts, in nats, beside the same with ids shuffled over tokens.

    The most that it can be is what knowing the token itself, with its context, would tell; a hash router, which knows
    the id alone, reaches that.
    """
    n_experts = decisions.n_experts
    known_X, id_N = np.unique(decisions.tokens.id_N, return_inverse=True)
    n_ids = len(known_X)
    token_M, expert_M = decisions.assignments()
    count_XE = decisions.table(id_N, n_ids)
    draw = np.random.default_rng(seed)
    shuffled = []
    expert_entropy = float(entropy(count_XE.sum(0)))
    experts_N = np.bincount(token_M, minlength=len(id_N))
    for _ in range(permutations):
        other_N = draw.permutation(id_N)
        key_M = other_N[token_M] * n_experts + expert_M
        count = np.bincount(key_M, minlength=n_ids * n_experts)
        joint = np.log(len(token_M)) - x_log_x(count[count > 0]).sum() / len(token_M)
        of_ids = entropy(np.bincount(other_N, weights=experts_N, minlength=n_ids))
        shuffled.append(float(of_ids) + expert_entropy - float(joint))
    nats = float(mutual_information(count_XE))
    information = set_beside(nats, told_by_token(decisions), np.array(shuffled))
    times_X = np.bincount(id_N, minlength=n_ids)
    return Vocabulary(information, _specialised(count_XE, times_X, known_X), count_XE.sum(0) / max(1, len(id_N)))


def _specialised(
    count_XE: NDArray[np.int64], times_X: NDArray[np.int64], known_X: NDArray[np.int64]
) -> tuple[tuple[Specialised, ...], ...]:
    often_J = np.flatnonzero(times_X >= FEWEST)
    share_JE = count_XE[often_J] / times_X[often_J, None]
    found = []
    for share_J in share_JE.T:
        # The largest share first; of equal ones the token that came oftener, which says more.
        best = [index for index in np.lexsort((-times_X[often_J], -share_J))[:NAMED] if share_J[index] > 0]
        found.append(
            tuple(
                Specialised(int(known_X[often_J[index]]), float(share_J[index]), int(times_X[often_J[index]]))
                for index in best
            )
        )
    return tuple(found)
