"""PyTorch's fused scaled-dot-product attention.

Shapes: B batch, H heads, G key/value heads, T queries, S keys, K head width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from sublayer.model.attention.kernel.base import Attended, Attention, is_cpu_step
from sublayer.model.attention.pattern.base import Causal
from sublayer.model.precision import at_least_float32, without_autocast


class Sdpa:
    """`torch.nn.functional.scaled_dot_product_attention`: any pattern and score change, as a dense mask if need be.

    For a single query, PyTorch's kernel for CPUs takes three to eight times as long in bfloat16 as in float32, so a
    decoding step is computed in float32.  Where query heads share keys, such a step is faster with those heads as the
    queries of one.  For values wider or narrower than keys it would fall back to plain products, so the narrower ones
    are filled up with zeros (benchmarks/attention.py).
    """

    name = "sdpa"
    strength = "PyTorch's fused kernel"

    def refuses(self, call: Attention) -> str | None:
        if call.want_weights:
            return "it does not return attention weights"
        if call.soft_cap is not None:
            return "it has no soft cap on scores"
        if call.score_change is not None and call.score_change.changes_values:
            return "it does not add to values by weight"
        return None

    def passes(self, call: Attention, q_BHTK: Tensor) -> str | None:
        return None

    def __call__(self, q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, call: Attention) -> Attended:
        causal = call.span.aligned and call.pattern == Causal() and call.score_change is None and call.sink_H is None
        mask = None if causal else self._mask(call)
        if call.sink_H is not None:
            k_BGSK, v_BGSK, mask = _with_sink(k_BGSK, v_BGSK, mask, call.sink_H)
        n_rows, n_heads, n_queries, width = q_BHTK.shape
        n_kv_heads, value_width = k_BGSK.shape[1], v_BGSK.shape[-1]
        # Autocast would round the mask to bfloat16, and with it the distances in a score change.
        with without_autocast(q_BHTK):
            q = q_BHTK.float() if is_cpu_step(q_BHTK) else q_BHTK
            k, v = k_BGSK.to(q.dtype), v_BGSK.to(q.dtype)
            if width != value_width:
                q, k, v = (F.pad(x, (0, max(width, value_width) - x.shape[-1])) for x in (q, k, v))
            alone = n_queries == 1 and n_heads != n_kv_heads
            if alone:
                q = q.reshape(n_rows, n_kv_heads, n_heads // n_kv_heads, q.shape[-1])
                if mask is not None and mask.shape[1] > 1:
                    mask = mask.reshape(mask.shape[0], n_kv_heads, n_heads // n_kv_heads, mask.shape[-1])
            out = F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=mask if mask is None or mask.dtype == torch.bool else mask.to(_mask_dtype(q)),
                dropout_p=call.dropout,
                is_causal=causal and not alone,
                scale=call.scale,
                enable_gqa=n_heads != n_kv_heads and not alone,
            )
            out = out.view(n_rows, n_heads, 1, out.shape[-1]) if alone else out
            out = out if width <= value_width else out[..., :value_width]
        return Attended(out.to(q_BHTK.dtype))

    def _mask(self, call: Attention) -> Tensor | None:
        visible = call.span.visible(call.pattern)
        if call.score_change is None:
            return visible
        bias = call.score_change.dense(call.span)
        return bias if visible is None else bias.masked_fill(~visible, float("-inf"))


def _with_sink(k_BGSK: Tensor, v_BGSK: Tensor, mask: Tensor | None, sink_H: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, values and mask with one key more: it is 0, so its score is what the mask says, and so is its value."""
    sink = at_least_float32(sink_H)[None, :, None, None]
    n_keys = k_BGSK.shape[2]
    if mask is None:
        mask = sink.new_zeros(1, 1, 1, n_keys)
    elif mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=sink.dtype).masked_fill(~mask, float("-inf"))
    shape = (mask.shape[0], sink.shape[1], mask.shape[2])
    mask = torch.cat([mask.expand(*shape, n_keys), sink.expand(*shape, 1).to(mask.dtype)], dim=-1)
    return F.pad(k_BGSK, (0, 0, 0, 1)), F.pad(v_BGSK, (0, 0, 0, 1)), mask


def _mask_dtype(q: Tensor) -> torch.dtype:
    """float32 on the CPU, whose kernel takes it beside bfloat16 queries; elsewhere the queries' own."""
    return torch.float32 if q.device.type == "cpu" and q.dtype != torch.float64 else q.dtype
