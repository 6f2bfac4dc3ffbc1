"""PyTorch's fused scaled-dot-product attention.

Shapes: B batch, H heads, G key/value heads, T queries, S keys, K head width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from sublayer.model.attention.kernel.base import Attended, Attention, is_cpu_step
from sublayer.model.attention.pattern.base import Causal
from sublayer.model.precision import without_autocast


class Sdpa:
    """`torch.nn.functional.scaled_dot_product_attention`: any pattern and score change, as a dense mask if need be.

    For a single query, PyTorch's kernel for CPUs takes three to eight times as long in bfloat16 as in float32, so a
    decoding step is computed in float32.
    """

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
        with without_autocast(q_BHTK):
            q = q_BHTK.float() if is_cpu_step(q_BHTK) else q_BHTK
            out = F.scaled_dot_product_attention(
                q,
                k_BGSK.to(q.dtype),
                v_BGSK.to(q.dtype),
                attn_mask=mask if mask is None or mask.dtype == torch.bool else mask.to(_mask_dtype(q)),
                dropout_p=call.dropout,
                is_causal=causal,
                scale=call.scale,
                enable_gqa=q_BHTK.shape[1] != k_BGSK.shape[1],
            )
        return Attended(out.to(q_BHTK.dtype))

    def _mask(self, call: Attention) -> Tensor | None:
        visible = call.span.visible(call.pattern)
        if call.score_change is None:
            return visible
        bias = call.score_change.dense(call.span)
        return bias if visible is None else bias.masked_fill(~visible, float("-inf"))


def _mask_dtype(q: Tensor) -> torch.dtype:
    """float32 on the CPU, whose kernel takes it beside bfloat16 queries; elsewhere the queries' own."""
    return torch.float32 if q.device.type == "cpu" and q.dtype != torch.float64 else q.dtype
