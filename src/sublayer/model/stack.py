"""A stack of layers with the positions that they use.

Shapes: B batch, T tokens, D d_model.
"""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from sublayer.model.block import Block
from sublayer.model.layout import Layout, Span
from sublayer.model.part import Heads, StackShape
from sublayer.model.position import Position, PositionConfig
from sublayer.model.report import EMPTY, Report
from sublayer.model.resolution import LayerConfig
from sublayer.model.source import Encoded
from sublayer.model.state import Memory, State
from sublayer.model.sublayer import Context, Sublayer


class Stack(nn.Module):
    """Blocks, one above the other.

    Args:
        layers: complete.
        shape: of the stack.
        final_norm: normalise what leaves the last block; None where its wiring has it so.
    """

    def __init__(self, layers: Sequence[LayerConfig], shape: StackShape, final_norm: bool | None) -> None:
        super().__init__()
        self._position_of, distinct = _positions(layers)
        self.positions = nn.ModuleList(position.build(shape, heads) for position, heads in distinct)
        self.blocks = nn.ModuleList(Block(layer, shape, number) for number, layer in enumerate(layers))
        last = layers[-1]
        normalised = last.residual.final_norm if final_norm is None else final_norm
        self.final_norm = last.norm.build(shape.d_model) if normalised else None

    def position(self, layer: int) -> Position:
        """The position encoding of a layer, which others may share."""
        return cast(Position, self.positions[self._position_of[layer]])

    def through(
        self,
        x_BTD: Tensor,
        tokens_BT: Tensor,
        layout: Layout,
        plain: bool,
        source: Encoded | None = None,
        state: State | None = None,
        want: frozenset[str] = frozenset(),
    ) -> tuple[Tensor, Report]:
        """What leaves the last block, not normalised, and what the sublayers tell, by layer.

        Args:
            x_BTD: embeddings.
            tokens_BT: the ids of the tokens.
            layout: of them, resolved.
            plain: whether nothing had been said in it.
            source, state, want: as in `Context`.
        """
        span = Span.within(layout, plain)
        contexts = [
            Context(layout, span, cast(Position, each), source, state, want, tokens_BT) for each in self.positions
        ]
        report = EMPTY
        for number, block in enumerate(self.blocks):
            context = contexts[self._position_of[number]]
            x_BTD, told = block(x_BTD, context, None if state is None else state.layers[number])
            if told is not EMPTY:
                report = report + told.under(f"layers.{number}")
        return x_BTD, report

    def boxes(self) -> Iterator[tuple[str, Sublayer]]:
        """The sublayers of all blocks, by the names that their reports have."""
        for number, block in enumerate(self.blocks):
            for name, box in cast(Block, block).sublayers():
                yield f"layers.{number}.{name}", box

    def normalised(self, x_BTD: Tensor) -> Tensor:
        """The stack's output, of what left its last block."""
        return x_BTD if self.final_norm is None else self.final_norm(x_BTD)

    def new_memories(
        self, batch_size: int, max_length: int, max_rewind: int, device: torch.device, dtype: torch.dtype
    ) -> list[list[Memory | None]]:
        """What each layer's sublayers must remember while decoding."""
        return [
            cast(Block, block).new_memories(batch_size, max_length, max_rewind, device, dtype) for block in self.blocks
        ]


def _positions(layers: Sequence[LayerConfig]) -> tuple[list[int], list[tuple[PositionConfig, Heads]]]:
    """Which position encoding each layer has, and what they are made from.

    Layers that choose the same one for like attentions share it, unless it belongs to a layer.  One that acts on the
    embeddings acts once, whatever the attentions are.
    """
    first = layers[0].attention.heads()
    places: list[int] = []
    distinct: list[tuple[PositionConfig, Heads]] = []
    for layer in layers:
        need = (layer.position, first if layer.position.embeds else layer.attention.heads())
        if not layer.position.shared or need not in distinct:
            distinct.append(need)
        places.append(distinct.index(need) if layer.position.shared else len(distinct) - 1)
    return places, distinct
