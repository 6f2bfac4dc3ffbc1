"""Which kernel computes a layer's attention, and why."""

from dataclasses import dataclass, replace

import torch

from sublayer.model.attention.kernel import explain
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
    # One number, expanded: a kernel looks at the shape, dtype and place of queries, not at what is in them.
    number = torch.empty((), device=device, dtype=dtype).requires_grad_(trained)
    example = layer.attention.example(shape.direction, span, number, decoding=not trained)
    if example is None:
        return OWN
    position = layer.position.build(shape, layer.attention.heads()).train(trained)
    change = position.prepare(*example.positioned, span, example.call.scale)
    kernel, why = explain(example.kernel, replace(example.call, score_change=change), example.q_BHTK)
    return KernelChoice(kernel.name, why)
