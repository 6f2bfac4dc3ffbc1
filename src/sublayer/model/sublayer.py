"""What every sublayer is: (x, context, memory) → (y, report)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

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
        want: what to return in the report beside losses and counts: "attention" for attention weights, "routing" for
            what routers decide.
        tokens_BT: the ids of the tokens given.
    """

    layout: Layout
    span: Span
    position: Position
    source: Encoded | None = None
    state: State | None = None
    want: frozenset[str] = frozenset()
    tokens_BT: Tensor | None = None


Scope = Literal["micro_batch", "global_batch"]
"""How much of a step an auxiliary loss is meant for: what one pass computes, on a rank; or all passes on all ranks."""


class Sublayer(nn.Module):
    """One box of the stack.  Shapes: B batch, T tokens, D d_model."""

    joins: ClassVar[tuple[str, ...]] = ()
    """Names of linear layers that read the same input; packed for decoding, they are one product.  One that is None is
    passed over."""

    no_hidden_matrices: ClassVar[tuple[str, ...]] = ()
    """Names of parameters that are no maps from hidden features to hidden features, though they are matrices, such as
    classifiers: optimizers for hidden matrices leave them to another one.  Any module may have this."""

    stacked_vectors: ClassVar[tuple[str, ...]] = ()
    """Names of parameters that are a vector for each of several parts alike, such as the biases of experts [E, F]:
    optimizers take them for vectors and not for a matrix.  Any module may have this."""

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

    def scopes(self) -> frozenset[Scope]:
        """What its auxiliary losses are meant for; none where it has no such losses."""
        return frozenset()

    def auxiliary(self, told: Report, scope: Scope | None = None) -> Mapping[str, Tensor]:
        """The losses, by name, that follow from sums over tokens.

        Args:
            told: the sums and counts that the box told, of as many tokens as there are, added up.
            scope: only the losses that are meant for this much of a step's tokens; None for all.
        """
        return {}

    def adjust(self, counts: Mapping[str, Tensor]) -> None:
        """Change what is changed without a gradient, after an optimizer step.

        Args:
            counts: that the box told, of all of the step's tokens, added up.
        """

    def new_memory(
        self, batch_size: int, max_length: int, max_rewind: int, device: torch.device, dtype: torch.dtype
    ) -> Memory | None:
        """What the box must remember while decoding; None when each token stands alone."""
        return None
