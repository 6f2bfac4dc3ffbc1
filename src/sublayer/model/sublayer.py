"""What every sublayer is: (x, context, memory) → (y, report)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sublayer.model.layout import Layout, Span
from sublayer.model.position.base import Position
from sublayer.model.report import Report
from sublayer.model.source import Encoded
from sublayer.model.state import Memory, State


@dataclass(frozen=True)
class Context:
    """What the sublayers of one layer are told in one forward pass.

    Attributes:
        layout: of the tokens given, resolved (it has positions).
        span: all of these tokens as queries and keys; an attention with a memory takes its span from there instead.
        position: the layer's position encoding.
        source: what the encoder made of its sequence, in the decoder of an encoder_decoder; while decoding it is given
            once, and cross-attentions remember what they need of it.
        state: the decoding state, when decoding.
        want: what to return in the report beside losses and counts: "attention" for attention weights.
    """

    layout: Layout
    span: Span
    position: Position
    source: Encoded | None = None
    state: State | None = None
    want: frozenset[str] = frozenset()


class Sublayer(nn.Module):
    """One box of the stack.  Shapes: B batch, T tokens, D d_model."""

    joins: ClassVar[tuple[str, ...]] = ()
    """Names of linear layers that read the same input; packed for decoding, they are one product.  One that is None is
    passed over."""

    joined: Callable[[Tensor], Sequence[Tensor]] | None = None
    """That product, when packed: the outputs in the same order."""

    def joined_names(self) -> tuple[str, ...]:
        """Those of `joins` that are there."""
        return tuple(name for name in self.joins if getattr(self, name) is not None)

    def project(self, x: Tensor) -> Sequence[Tensor]:
        """The outputs of the layers in `joins` that are there."""
        return [getattr(self, name)(x) for name in self.joined_names()] if self.joined is None else self.joined(x)

    def forward(self, x_BTD: Tensor, context: Context, memory: Memory | None = None) -> tuple[Tensor, Report]:
        """The box's output [B, T, D], and what it tells beside it."""
        raise NotImplementedError

    def new_memory(
        self, batch_size: int, max_length: int, max_rewind: int, device: torch.device, dtype: torch.dtype
    ) -> Memory | None:
        """What the box must remember while decoding; None when each token stands alone."""
        return None
