"""Cross-entropy over the vocabulary, in chunks, so that the logits of a batch never stand in memory at once.

Shapes: N tokens, D width, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sublayer.model.precision import at_least_float32

IGNORED = -100
"""The target of a token that is not scored."""

CHUNK_BYTES = 4 * 2**20
"""Size of the logits held at once: small enough to stay in a cache between the passes over them."""


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
        total = at_least_float32(hidden_ND.new_zeros(()))
        n_rows = max(1, CHUNK_BYTES // (4 * weight.shape[0]))
        for start in range(0, hidden_ND.shape[0], n_rows):
            rows = slice(start, start + n_rows)
            hidden, scored = hidden_ND[rows], scored_N[rows]
            target = torch.where(scored, targets_N[rows], 0)[:, None]
            log_probabilities = at_least_float32(hidden @ weight.T).log_softmax(-1)
            losses = log_probabilities.gather(1, target)[:, 0]
            total = total - torch.where(scored, losses, 0).sum()
            if hidden_grad is None and weight_grad is None:
                continue
            # softmax − one-hot.  Which rows count is multiplied into the narrow factors, and 1/count into the result.
            gradient = log_probabilities.exp_().scatter_add_(1, target, -torch.ones_like(losses)[:, None])
            gradient = gradient.to(hidden.dtype)
            counted = scored[:, None].to(hidden.dtype)
            if hidden_grad is not None:
                hidden_grad[rows] = (gradient @ weight) * counted
            if weight_grad is not None:
                weight_grad += gradient.T @ (hidden * counted)
        ctx.save_for_backward(hidden_grad, weight_grad, count)
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        hidden_grad, weight_grad, count = ctx.saved_tensors
        share = grad / count
        return (
            None if hidden_grad is None else hidden_grad * share.to(hidden_grad.dtype),
            None if weight_grad is None else weight_grad * share.to(weight_grad.dtype),
            None,
        )
