"""From logits to the next tokens: pure functions, in float32 with sums in float64.

The order, and why:

1. The repetition penalty changes the logits, because it is defined on them.
2. The temperature makes them the distribution that is drawn from.
3. Top-k, top-p and min-p each cut the tail of that one distribution.  All three keep the first tokens of the same
   ranking, so together they keep the shortest of their three lists, in whatever order they are applied; none sees a
   distribution that another has made taller by cutting, so each means the same alone and in company.
4. What is kept is drawn from in proportion.

A token is drawn by one uniform number from its row's own generator: neither the other rows of the batch nor the device
changes what a seed gives.

Shapes: B rows, V vocabulary.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sublayer.generation.config import GenerationConfig


def row_seeds(seed: int, n_rows: int) -> list[int]:
    """The seed of each row of a batch: row 0 has the batch's, every other one drawn from (seed, row).

    So a prompt alone, with the seed that its row had, gives what it gave in the batch.
    """
    drawn = [int(np.random.SeedSequence([seed, row]).generate_state(1)[0]) for row in range(1, n_rows)]
    return [seed, *drawn][:n_rows]


def next_tokens(
    logits_BV: Tensor, config: GenerationConfig, uniforms: list[float], seen_BV: Tensor | None = None
) -> Tensor:
    """One token for each row, [B].

    Args:
        logits_BV: of the next token.
        uniforms: a number in [0, 1) for each row; not looked at when the temperature is 0.
        seen_BV: True at the tokens that the repetition penalty is for; None for none.
    """
    logits_BV = logits_BV.float()
    if seen_BV is not None:
        logits_BV = penalised(logits_BV, seen_BV, config.repetition_penalty)
    if config.temperature == 0:
        return logits_BV.argmax(-1)
    return drawn(distribution(logits_BV, config), uniforms)


def log_probabilities(logits_BV: Tensor, tokens_B: Tensor) -> Tensor:
    """Of each row's token, in nats, as the model has it: without penalty, temperature and cuts, [B]."""
    logits_BV = logits_BV.float()
    return logits_BV.gather(-1, tokens_B[:, None])[:, 0] - logits_BV.logsumexp(-1)


def penalised(logits_BV: Tensor, seen_BV: Tensor, penalty: float) -> Tensor:
    """Logits with those of seen tokens made less: a positive one divided by the penalty, a negative one multiplied."""
    return torch.where(seen_BV, torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty), logits_BV)


def distribution(logits_BV: Tensor, config: GenerationConfig) -> Tensor:
    """The probabilities to draw with, [B, V]: 0 for what top-k, top-p and min-p cut, the rest summing to 1.

    Of tokens with equal logits at a cut, those with lower ids are kept.  At least one token always is.
    """
    top_p = None if config.top_p == 1 else config.top_p  # all of it is no cut, whatever the sum rounds to
    if config.top_k is None and top_p is None and config.min_p is None:
        return _softmax(logits_BV, config.temperature)
    # Ranked by their logits: probabilities may round to the same where logits differ, and top_k: 1 must be the argmax.
    ranked_BV, order_BV = logits_BV.sort(dim=-1, descending=True, stable=True)
    ranked_BV = _softmax(ranked_BV, config.temperature)
    kept_BV = torch.ones_like(ranked_BV, dtype=torch.bool)
    if config.top_k is not None:
        kept_BV[:, config.top_k :] = False
    if top_p is not None:
        mass_BV = ranked_BV.to(_wide(ranked_BV)).cumsum(-1)
        before_BV = F.pad(mass_BV[:, :-1], (1, 0))
        kept_BV &= before_BV < top_p
    if config.min_p is not None:
        kept_BV &= ranked_BV >= config.min_p * ranked_BV[:, :1]
    ranked_BV = torch.where(kept_BV, ranked_BV, 0)
    ranked_BV = ranked_BV / ranked_BV.sum(-1, keepdim=True)
    return torch.zeros_like(ranked_BV).scatter_(-1, order_BV, ranked_BV)


def _softmax(logits_BV: Tensor, temperature: float) -> Tensor:
    # Subtracting the largest first, and no division by 0, let the temperature go as near to 0 as one likes.
    temperature = max(temperature, torch.finfo(torch.float32).tiny)
    return ((logits_BV - logits_BV.amax(-1, keepdim=True)) / temperature).softmax(-1)


def drawn(probs_BV: Tensor, uniforms: list[float]) -> Tensor:
    """A token for each row, [B]: the one in whose share of the cumulated probability the row's uniform number falls."""
    mass_BV = probs_BV.to(_wide(probs_BV)).cumsum(-1)
    total_B1 = mass_BV[:, -1:]
    place_B1 = torch.tensor(uniforms, dtype=mass_BV.dtype, device=mass_BV.device)[:, None] * total_B1
    # Strictly below the total also where the number rounds to 1, so that no token of probability 0 is ever taken.
    place_B1 = torch.minimum(place_B1, torch.nextafter(total_B1, torch.zeros_like(total_B1)))
    return torch.searchsorted(mass_BV, place_B1, right=True)[:, 0]


def _wide(values: Tensor) -> torch.dtype:
    """The dtype of sums over the vocabulary; Apple's GPUs have no float64."""
    return torch.float32 if values.device.type == "mps" else torch.float64
