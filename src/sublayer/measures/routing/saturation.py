"""How early in training routers decide as they do at its end.

Router saturation (Muennighoff et al. 2024, "OLMoE", section 5.1): of a token's experts, the share that it goes to at
both times.

Shapes: N tokens, E experts.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sublayer.measures.routing.decisions import Decisions


@dataclass(frozen=True, slots=True)
class Saturation:
    """A layer's decisions at an earlier time beside the last ones.

    Attributes:
        state: what the earlier time is called.
        step: of the training.
        share: of the last choices that were made then as well.
        even: the same where both times choose evenly at random: k/E.
        chance: the same where both times choose at random, each with its own load: more, where the same experts are
            overloaded.
    """

    state: str
    step: int
    share: float
    even: float
    chance: float

    def tree(self) -> dict[str, Any]:
        """All figures, for JSON."""
        return {
            "state": self.state,
            "step": self.step,
            "share": self.share,
            "even": self.even,
            "chance": self.chance,
        }


def saturation(before: Decisions, last: Decisions, state: str, step: int) -> Saturation:
    """Two decisions about the same tokens.

    Raises:
        ValueError: when they are not of the same layer and tokens.
    """
    if (before.name, before.n_experts, len(before.packed)) != (last.name, last.n_experts, len(last.packed)):
        raise ValueError(f"saturation: {before.name} and {last.name} did not decide about the same tokens.")
    both = sum(int((b & now).sum()) for b, now in zip(before.chunks(), last.chunks(), strict=True))
    load_E, last_E = before.load_E().astype(np.float64), last.load_E().astype(np.float64)
    made, n_tokens = float(last_E.sum()), len(last.packed)
    return Saturation(
        state,
        step,
        both / made if made else 0.0,
        float(load_E.sum()) / (n_tokens * last.n_experts),
        float(load_E @ last_E) / (n_tokens * made) if made else 0.0,
    )
