"""One layer of the stack: sublayers, wired by the residual.

Shapes: B batch, T tokens, D d_model.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from sublayer.model.part import StackShape
from sublayer.model.report import EMPTY, Report
from sublayer.model.residual.base import Residual
from sublayer.model.resolution import LayerConfig
from sublayer.model.state import Memory
from sublayer.model.sublayer import Context, Sublayer


class Block(nn.Module):
    """Attention, attention to a source if there is one, and a feed-forward if the layer has one.

    Args:
        config: the complete layer config.
        shape: of the stack.
        layer: the block's number, from 0.
    """

    def __init__(self, config: LayerConfig, shape: StackShape, layer: int) -> None:
        super().__init__()
        shape = replace(shape, gain=config.residual.gain(shape), layer=layer)
        self.attention: Sublayer = config.attention.build(shape, layer)
        across = config.cross_attention
        self.cross_attention: Sublayer | None = None if across is None else across.build(shape, layer, cross=True)
        self.feed_forward: Sublayer | None = config.feed_forward.build(shape)
        self.residual: Residual = config.residual.build(shape, config.norm, len(self.sublayers()), layer)

    def sublayers(self) -> list[tuple[str, Sublayer]]:
        """The block's boxes in order, by name."""
        boxes = [
            ("attention", self.attention),
            ("cross_attention", self.cross_attention),
            ("feed_forward", self.feed_forward),
        ]
        return [(name, box) for name, box in boxes if box is not None]

    def forward(
        self, x_BTD: Tensor, context: Context, memories: Sequence[Memory | None] | None = None
    ) -> tuple[Tensor, Report]:
        """The block's output [B, T, D], and what its sublayers tell, by their names."""
        total = EMPTY
        stream = self.residual.enter(x_BTD)
        for i, (name, sublayer) in enumerate(self.sublayers()):
            memory = memories[i] if memories is not None else None

            def box(x: Tensor, sublayer: Sublayer = sublayer, memory: Memory | None = memory) -> tuple[Tensor, Report]:
                y, report = sublayer(x, context, memory)
                return y, report

            stream, report = self.residual.around(i, box, stream)
            if report is not EMPTY:
                total = total + report.under(name)
        return self.residual.leave(stream), total

    def new_memories(
        self, batch_size: int, max_length: int, max_rewind: int, device: torch.device, dtype: torch.dtype
    ) -> list[Memory | None]:
        """What each sublayer must remember while decoding."""
        return [box.new_memory(batch_size, max_length, max_rewind, device, dtype) for _, box in self.sublayers()]
