"""Which kernel computes a layer's attention, and why.

Shapes: B batch, H heads, T queries, S keys, K head width.
"""

from dataclasses import dataclass
from typing import cast

import torch

from sublayer.model.attention.kernel import Attention, KernelName, explain
from sublayer.model.layout import Layout, Span
from sublayer.model.part import StackShape
from sublayer.model.resolution import LayerConfig


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """A kernel by name, and why it is taken."""

    kernel: str
    why: str


OWN = KernelChoice("its own", "this attention has no choice of kernel")


def training_kernel(
    layer: LayerConfig, shape: StackShape, length: int, packed: bool, device: torch.device, dtype: torch.dtype
) -> KernelChoice:
    """The kernel of a training step.

    Args:
        layer: complete.
        shape: of the stack.
        length: tokens a row.
        packed: whether rows hold several documents that do not see one another.
        device, dtype: of the queries.
    """
    layout = Layout(document_BT=torch.zeros(1, length, dtype=torch.int64)) if packed else Layout()
    span = Span.within(layout.resolved(length, torch.device("cpu")), plain=not packed)
    return _chosen(layer, shape, span, device, dtype, trained=True)


def decoding_kernel(
    layer: LayerConfig, shape: StackShape, length: int, device: torch.device, dtype: torch.dtype
) -> KernelChoice:
    """The kernel that decodes one token with `length` keys in view, itself included."""
    keys = torch.arange(length)[None]
    span = Span(query_positions=keys[:, -1:], key_positions=keys, whole=True, newest=True)
    return _chosen(layer, shape, span, device, dtype, trained=False)


def _chosen(
    layer: LayerConfig, shape: StackShape, span: Span, device: torch.device, dtype: torch.dtype, trained: bool
) -> KernelChoice:
    name = getattr(layer.attention, "kernel", None)
    if name is None:
        return OWN
    heads = layer.attention.heads()
    # One number, expanded: a kernel looks at the shape, dtype and place of queries, not at what is in them.
    n_queries, n_keys = span.query_positions.shape[1], span.key_positions.shape[1]
    number = torch.empty((), device=device, dtype=dtype)
    q_BHTK = number.expand(1, heads.count, n_queries, heads.width).requires_grad_(trained)
    k_BHSK = number.expand(1, heads.count, n_keys, heads.width)
    scale = heads.width**-0.5
    call = Attention(
        pattern=layer.attention.seen(shape.direction),
        span=span,
        scale=scale,
        score_change=layer.position.build(shape, heads).prepare(q_BHTK, k_BHSK, span, scale),
        dropout=getattr(layer.attention, "dropout", 0.0) if trained else 0.0,
    )
    kernel, why = explain(cast(KernelName, name), call, q_BHTK)
    return KernelChoice(kernel.name, why)
