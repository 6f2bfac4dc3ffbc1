"""Cross-entropy over the vocabulary, in chunks, so that the logits of a batch never stand in memory at once.

Shapes: N tokens, D width, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sublayer.model.precision import at_least_float32
from sublayer.model.soft_cap import soft_capped

IGNORED = -100
"""The target of a token that is not scored."""

CHUNK_BYTES = 4 * 2**20
"""Size of the logits held at once: small enough to stay in a cache between the passes over them."""


def cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    bias_V: Tensor | None = None,
    soft_cap: float | None = None,
) -> Tensor:
    """Mean of −log softmax(cap(h Wᵀ + b))[target] over the targets that are not IGNORED, in nats; 0 when all are.

    The products run in autocast's dtype when autocast is on; the softmax is in float32.
    """
    if torch.is_autocast_enabled(hidden_ND.device.type):
        hidden_ND = hidden_ND.to(torch.get_autocast_dtype(hidden_ND.device.type))
    if not torch.is_grad_enabled():  # a parameter asks for its gradient all the same, and it would be computed
        hidden_ND, weight_VD = hidden_ND.detach(), weight_VD.detach()
        bias_V = None if bias_V is None else bias_V.detach()
    with torch.autocast(hidden_ND.device.type, enabled=False):
        return _ChunkedCrossEntropy.apply(hidden_ND, weight_VD, targets_N, bias_V, soft_cap)  # type: ignore[no-untyped-call, no-any-return]


def reference_cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    bias_V: Tensor | None = None,
    soft_cap: float | None = None,
) -> Tensor:
    """The same with all logits at once; what `cross_entropy` is tested against."""
    logits_NV = soft_capped(F.linear(hidden_ND, weight_VD, bias_V), soft_cap)
    total = F.cross_entropy(logits_NV, targets_N, ignore_index=IGNORED, reduction="sum")
    return total / (targets_N != IGNORED).sum().clamp(min=1)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Computes the gradient together with the loss: the softmax of a chunk is at hand, and recomputing it would cost
    another pass over the vocabulary."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        bias_V: Tensor | None,
        soft_cap: float | None,
    ) -> Tensor:
        weight = weight_VD.to(hidden_ND.dtype)
        scored_N = targets_N != IGNORED
        count = scored_N.sum().clamp(min=1)
        wants_hidden, wants_weight, _, wants_bias, _ = ctx.needs_input_grad
        hidden_grad = torch.empty_like(hidden_ND) if wants_hidden else None
        # Summed over the chunks in float32: a sum of hundreds in bfloat16 would lose the small ones.
        weight_grad = at_least_float32(torch.zeros_like(weight_VD)) if wants_weight else None
        bias_grad = at_least_float32(torch.zeros_like(bias_V)) if bias_V is not None and wants_bias else None
        total = at_least_float32(hidden_ND.new_zeros(()))
        n_rows = max(1, CHUNK_BYTES // (4 * weight.shape[0]))
        for start in range(0, hidden_ND.shape[0], n_rows):
            rows = slice(start, start + n_rows)
            hidden, scored = hidden_ND[rows], scored_N[rows]
            target = torch.where(scored, targets_N[rows], 0)[:, None]
            log_probabilities, slope = _log_probabilities(hidden, weight, bias_V, soft_cap)
            losses = log_probabilities.gather(1, target)[:, 0]
            total = total - torch.where(scored, losses, 0).sum()
            if hidden_grad is None and weight_grad is None and bias_grad is None:
                continue
            # softmax − one-hot.  Which rows count is multiplied into the narrow factors, and 1/count into the result.
            gradient = log_probabilities.exp_().scatter_add_(1, target, -torch.ones_like(losses)[:, None])
            if slope is not None:
                gradient = gradient.mul_(slope)
            if bias_grad is not None:
                bias_grad += (gradient * scored[:, None]).sum(0)
            gradient = gradient.to(hidden.dtype)
            counted = scored[:, None].to(hidden.dtype)
            if hidden_grad is not None:
                hidden_grad[rows] = (gradient @ weight) * counted
            if weight_grad is not None:
                weight_grad += gradient.T @ (hidden * counted)
        weight_grad = None if weight_grad is None else weight_grad.to(weight_VD.dtype)
        bias_grad = None if bias_grad is None or bias_V is None else bias_grad.to(bias_V.dtype)
        ctx.save_for_backward(hidden_grad, weight_grad, bias_grad, count)
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *gradients, count = ctx.saved_tensors
        share = grad / count
        hidden, weight, bias = (None if each is None else each * share.to(each.dtype) for each in gradients)
        return hidden, weight, None, bias, None


def _log_probabilities(
    hidden: Tensor, weight: Tensor, bias_V: Tensor | None, soft_cap: float | None
) -> tuple[Tensor, Tensor | None]:
    """log softmax(cap(h Wᵀ + b)), and where there is a cap its slope, 1 − tanh²."""
    logits = at_least_float32(hidden @ weight.T)
    if bias_V is not None:
        logits = logits.add_(bias_V)
    if soft_cap is None:
        return logits.log_softmax(-1), None
    ratio = logits.div_(soft_cap).tanh_()
    slope = 1 - ratio.square()
    return ratio.mul_(soft_cap).log_softmax(-1), slope
