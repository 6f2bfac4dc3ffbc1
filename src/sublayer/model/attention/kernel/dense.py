"""Two matrix products with a softmax between them, in the dtype of the queries.

Shapes: B batch, H heads, G key/value heads, T queries, S keys, K head width.
"""

import torch
from torch import Tensor

from sublayer.model.attention.kernel.base import Attended, Attention, is_cpu_step
from sublayer.model.dropout import dropout
from sublayer.model.precision import at_least_float32, without_autocast
from sublayer.model.soft_cap import soft_capped

LONGEST = 512 * 512
"""Query-key pairs by row up to which this is the faster kernel on a CPU in bfloat16 (benchmarks/attention.py)."""

STEP = 1 << 20
"""Numbers in the keys of all query heads from which on it is the faster one for a decoding step (the same script)."""


class Dense:
    """Attention with its scores as one tensor.

    PyTorch's fused kernel for CPUs is slow in bfloat16: for short sequences, forward and backward together take it
    about one and a half times as long as the plain products, and for one query over a long cache three times
    (benchmarks/attention.py).
    """

    name = "dense"
    strength = (
        "in bfloat16 on a CPU faster than the fused kernel, for training on short sequences and decoding long ones"
    )

    def refuses(self, call: Attention) -> str | None:
        return "it does not return attention weights" if call.want_weights else None

    def passes(self, call: Attention, q_BHTK: Tensor) -> str | None:
        if q_BHTK.device.type != "cpu":
            return f"the fused kernel is faster on {q_BHTK.device.type}"
        if q_BHTK.dtype != torch.bfloat16:
            return f"the fused kernel is faster in {str(q_BHTK.dtype).removeprefix('torch.')}"
        if not q_BHTK.requires_grad:
            if not is_cpu_step(q_BHTK):
                return "the fused kernel is faster without gradients"
            many = q_BHTK.numel() * call.span.key_positions.shape[1] > STEP
            return None if many else "the fused kernel is faster over so few keys"
        if call.span.query_positions.shape[1] * call.span.key_positions.shape[1] > LONGEST:
            return "the fused kernel is faster for a sequence so long"
        return None

    def __call__(self, q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, call: Attention) -> Attended:
        batch, n_heads, n_queries, width = q_BHTK.shape
        n_kv_heads = k_BGSK.shape[1]
        with without_autocast(q_BHTK):
            # Query heads that share a key/value head stand below one another: one product serves them all.
            q = (q_BHTK * call.scale).reshape(batch, n_kv_heads, n_queries * n_heads // n_kv_heads, width)
            k = k_BGSK.to(q.dtype)
            if is_cpu_step(q_BHTK):  # the keys of a decoding step are read faster as the first factor
                scores = (k @ q.transpose(-1, -2)).transpose(-1, -2).contiguous()
            else:
                scores = q @ k.transpose(-1, -2)
            scores_BHTS = scores.view(batch, n_heads, n_queries, scores.shape[-1])
            if call.soft_cap is not None:
                # In float32: near a cap of 50, neighbouring numbers in bfloat16 are a quarter apart.
                scores_BHTS = soft_capped(at_least_float32(scores_BHTS), call.soft_cap)
            if call.score_change is not None:
                # In float32, as the distances in it are; the softmax of the sum then is as well.
                scores_BHTS = at_least_float32(scores_BHTS) + call.score_change.dense(call.span)
            hidden = _hidden(call, scores_BHTS.dtype)
            if hidden is not None:
                scores_BHTS = scores_BHTS.add_(hidden)
            if call.sink_H is None:
                weights = scores_BHTS.softmax(-1)
            else:
                sink = call.sink_H.to(scores_BHTS.dtype)[:, None, None].expand(*scores_BHTS.shape[:-1], 1)
                weights = torch.cat([scores_BHTS, sink], dim=-1).softmax(-1)[..., :-1]
            kept = dropout(weights.to(q.dtype), call.dropout, training=True)
            out = kept.reshape(*q.shape[:-1], kept.shape[-1]) @ v_BGSK.to(q.dtype)
            out = out.view(batch, n_heads, n_queries, out.shape[-1])
            if call.score_change is not None and call.score_change.changes_values:
                out = out + call.score_change.values(kept, call.span).to(out.dtype)
            seeing = _seeing(call)
        return Attended(out if seeing is None else out * seeing)


def _hidden(call: Attention, dtype: torch.dtype) -> Tensor | None:
    """A number too low to matter where a query does not see a key, 0 elsewhere, [1 or B, 1, T, S]; None when each sees
    all.

    It is half the lowest finite one: in a row that sees nothing, −∞ would give NaN, also in the gradient, and a score
    that is added must not lead there.
    """
    visible = call.span.visible(call.pattern)
    if visible is None:
        return None
    lowest = torch.finfo(dtype).min / 2
    return call.span.once(
        f"hidden {call.pattern} {dtype}",
        lambda: torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, lowest),
    )


def _seeing(call: Attention) -> Tensor | None:
    """Which queries see a key at all, [1 or B, 1, T, 1]; None when, without padding, each sees itself."""
    visible = call.span.visible(call.pattern)
    if visible is None or (call.span.whole and call.span.key_valid is None and call.pattern.sees_itself):
        return None
    return call.span.once(f"seeing {call.pattern}", lambda: visible.any(-1, keepdim=True))
