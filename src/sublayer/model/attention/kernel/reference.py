"""The dense kernel in float32, which returns weights; what the other kernels are tested against.

Shapes: B batch, H heads, G key/value heads, T queries, S keys, K head width.
"""

import torch
from torch import Tensor

from sublayer.model.attention.kernel.base import Attended, Attention
from sublayer.model.dropout import dropout
from sublayer.model.precision import at_least_float32, without_autocast
from sublayer.model.soft_cap import soft_capped


class Reference:
    """softmax(cap(scale·QKᵀ) + change) V, written out (Vaswani et al. 2017, equation 1)."""

    name = "reference"
    strength = "in float32, and it returns the weights"

    def refuses(self, call: Attention) -> str | None:
        return None

    def passes(self, call: Attention, q_BHTK: Tensor) -> str | None:
        return None

    def __call__(self, q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, call: Attention) -> Attended:
        with without_autocast(q_BHTK):
            q, k, v = (at_least_float32(x) for x in (q_BHTK, k_BGSK, v_BGSK))
            groups = q.shape[1] // k.shape[1]
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
            scores = soft_capped(call.scale * (q @ k.transpose(-1, -2)), call.soft_cap)
            if call.score_change is not None:
                scores = scores + call.score_change.dense(call.span)
            mask = call.span.visible(call.pattern)
            if mask is not None or call.sink_H is not None:
                scores = scores if mask is None else scores.masked_fill(~mask, float("-inf"))
                sink = None if call.sink_H is None else call.sink_H.to(scores.dtype)[:, None, None]
                # Subtracting a finite maximum leaves exp(−inf) = 0 in rows that see nothing, where softmax gives NaN.
                peak = scores.amax(-1, keepdim=True).detach().clamp(min=torch.finfo(scores.dtype).min)
                peak = peak if sink is None else torch.maximum(peak, sink.detach())
                exponentials = (scores - peak).exp()
                total = exponentials.sum(-1, keepdim=True)
                total = total if sink is None else total + (sink - peak).exp()
                weights = exponentials / torch.where(total > 0, total, 1)
            else:
                weights = scores.softmax(-1)
            kept = dropout(weights, call.dropout, training=True)
            out = kept @ v
            if call.score_change is not None and call.score_change.changes_values:
                out = out + call.score_change.values(kept, call.span)
        return Attended(out.to(q_BHTK.dtype), weights if call.want_weights else None)
