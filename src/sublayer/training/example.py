"""Rows of the size that training has, to rehearse or to measure a step with.

Shapes: B batch, T tokens, S source tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sublayer.data import RowShape
from sublayer.model import Layout, Source


@dataclass(frozen=True)
class Example:
    """What `Transformer.forward` is given.

    Attributes:
        tokens_BT: inputs.
        layout: theirs: one document a row, but said as for several where rows are packed.
        source: of an encoder_decoder.
        targets: [B, T], or [B] where a row has a single one.
    """

    tokens_BT: Tensor
    layout: Layout
    source: Source | None
    targets: Tensor


def example(rows: RowShape, n_rows: int, tokens: Callable[[int, int], Tensor]) -> Example:
    """An example of rows.

    Args:
        rows: how large they are.
        n_rows: B.
        tokens: (B, T) → token ids, int64.
    """
    tokens_BT = tokens(n_rows, rows.length)
    source = None
    if rows.source_length is not None:
        tokens_BS = tokens(n_rows, rows.source_length)
        source = Source(tokens_BS, _layout(rows, tokens_BS))
    targets = torch.zeros_like(tokens_BT[:, 0]) if rows.one_target else tokens_BT
    return Example(tokens_BT, _layout(rows, tokens_BT), source, targets)


def _layout(rows: RowShape, tokens_BT: Tensor) -> Layout:
    n_rows, length = tokens_BT.shape
    if rows.packed:
        place = torch.arange(length, device=tokens_BT.device)
        return Layout(place.repeat(n_rows, 1), torch.zeros_like(tokens_BT))
    if rows.one_target or rows.source_length is not None:  # texts stand alone in their rows, which are filled up
        return Layout(valid_BT=torch.ones_like(tokens_BT, dtype=torch.bool))
    return Layout()
