"""Cross-entropy over the vocabulary, in chunks, so that the logits of a batch never stand in memory at once.

Shapes: N tokens, D width, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -100
"""The target of a token that is not scored."""

CHUNK_BYTES = 32 * 2**20
"""Logits held at once."""


def cross_entropy(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Mean of −log softmax(h Wᵀ)[target] over the targets that are not IGNORED, in nats; 0 when all are.

    The products run in autocast's dtype when autocast is on; the softmax is in float32.
    """
    if torch.is_autocast_enabled(hidden_ND.device.type):
        hidden_ND = hidden_ND.to(torch.get_autocast_dtype(hidden_ND.device.type))
    if not torch.is_grad_enabled():  # a parameter asks for its gradient all the same, and it would be computed
        hidden_ND, weight_VD = hidden_ND.detach(), weight_VD.detach()
    with torch.autocast(hidden_ND.device.type, enabled=False):
        return _ChunkedCrossEntropy.apply(hidden_ND, weight_VD, targets_N)  # type: ignore[no-untyped-call, no-any-return]


def reference_cross_entropy(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """The same with all logits at once; what `cross_entropy` is tested against."""
    total = F.cross_entropy(hidden_ND @ weight_VD.T, targets_N, ignore_index=IGNORED, reduction="sum")
    return total / (targets_N != IGNORED).sum().clamp(min=1)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Computes the gradient together with the loss: the softmax of a chunk is at hand, and recomputing it would cost
    another pass over the vocabulary."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        weight = weight_VD.to(hidden_ND.dtype)
        scored_N = targets_N != IGNORED
        count = scored_N.sum().clamp(min=1)
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        hidden_grad = torch.empty_like(hidden_ND) if wants_hidden else None
        weight_grad = torch.zeros_like(weight_VD) if wants_weight else None
        total = torch.zeros((), device=hidden_ND.device, dtype=_accurate(hidden_ND.dtype))
        n_rows = max(1, CHUNK_BYTES // (4 * weight.shape[0]))
        for start in range(0, hidden_ND.shape[0], n_rows):
            rows = slice(start, start + n_rows)
            hidden, scored = hidden_ND[rows], scored_N[rows]
            target = torch.where(scored, targets_N[rows], 0)[:, None]
            logits = (hidden @ weight.T).to(total.dtype)
            log_total = logits.logsumexp(-1, keepdim=True)
            losses = log_total - logits.gather(1, target)
            total = total + torch.where(scored, losses[:, 0], 0).sum()
            if hidden_grad is None and weight_grad is None:
                continue
            gradient = (logits - log_total).exp_()
            gradient.scatter_add_(1, target, torch.full_like(losses, -1.0))
            gradient = (gradient * (scored[:, None] / count)).to(hidden.dtype)
            if hidden_grad is not None:
                hidden_grad[rows] = gradient @ weight
            if weight_grad is not None:
                weight_grad += gradient.T @ hidden
        ctx.save_for_backward(hidden_grad, weight_grad)
        return total / count

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        hidden_grad, weight_grad = ctx.saved_tensors
        return (
            None if hidden_grad is None else hidden_grad * grad.to(hidden_grad.dtype),
            None if weight_grad is None else weight_grad * grad.to(weight_grad.dtype),
            None,
        )


def _accurate(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
