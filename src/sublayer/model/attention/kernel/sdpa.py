"""PyTorch's fused scaled-dot-product attention.

Shapes: B batch, H heads, G key/value heads, T queries, S keys, K head width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from sublayer.model.attention.kernel.base import Attended, Attention
from sublayer.model.attention.pattern.base import Causal


class Sdpa:
    """`torch.nn.functional.scaled_dot_product_attention`: any pattern and score change, as a dense mask if need be."""

    name = "sdpa"
    strength = "PyTorch's fused kernel"

    def refuses(self, call: Attention) -> str | None:
        return "it does not return attention weights" if call.want_weights else None

    def passes(self, call: Attention, q_BHTK: Tensor) -> str | None:
        return None

    def __call__(self, q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, call: Attention) -> Attended:
        causal = call.span.aligned and call.pattern == Causal() and call.score_change is None
        mask = None if causal else self._mask(call)
        # Autocast would round the mask to bfloat16, and with it the distances in a score change.
        with torch.autocast(q_BHTK.device.type, enabled=False):
            out = F.scaled_dot_product_attention(
                q_BHTK,
                k_BGSK.to(q_BHTK.dtype),
                v_BGSK.to(q_BHTK.dtype),
                attn_mask=mask if mask is None or mask.dtype == torch.bool else mask.to(_mask_dtype(q_BHTK)),
                dropout_p=call.dropout,
                is_causal=causal,
                scale=call.scale,
                enable_gqa=q_BHTK.shape[1] != k_BGSK.shape[1],
            )
        return Attended(out)

    def _mask(self, call: Attention) -> Tensor | None:
        visible = call.span.visible(call.pattern)
        if call.score_change is None:
            return visible
        bias = call.score_change.dense(call.span)
        return bias if visible is None else bias.masked_fill(~visible, float("-inf"))


def _mask_dtype(q: Tensor) -> torch.dtype:
    """float32 on the CPU, whose kernel takes it beside bfloat16 queries; elsewhere the queries' own."""
    return torch.float32 if q.device.type == "cpu" and q.dtype != torch.float64 else q.dtype
