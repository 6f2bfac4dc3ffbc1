"""Stretches of a stream as rows of inputs, targets and layout.

Shape suffixes: B batch (rows), T length.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sublayer.data.shards import Tokens
from sublayer.data.tokenizing import BEGINS, SCORED

NOT_SCORED = -100
"""The target of a place that has none (PyTorch's `ignore_index`)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows for the model, int64 on the CPU.

    Attributes:
        tokens_BT: inputs.
        targets_BT: the token after each input; −100 where none is scored.
        positions_BT: positions within the document, counted from the row's start where the document began before it;
            None when a row is one document.
        document_BT: the number of the document within the row, from 0; None when a row is one document.
        valid_BT: bool, False for padding; None when there is none.
    """

    tokens_BT: Tensor
    targets_BT: Tensor
    positions_BT: Tensor | None
    document_BT: Tensor | None
    valid_BT: Tensor | None


def packed(
    stretches: Sequence[Tokens],
    length: int,
    end_id: int,
    isolate_documents: bool,
    marks: Sequence[NDArray[np.uint8] | None] | None = None,
) -> Batch:
    """Rows of `length` from stretches of tokens.

    Args:
        stretches: for each row its tokens and the one after: T+1 of them; a shorter one is padded.
        length: T.
        end_id: the token that begins a document; padding is made of it, so that nothing attends to it.
        isolate_documents: give positions and documents.
        marks: for each row the marks of its tokens, which say where documents begin and what is scored; None for a row
            in which a document begins at each `end_id` and every token is scored.
    """
    row_BT = np.full((len(stretches), length + 1), end_id, dtype=np.int64)
    size_B = np.array([len(stretch) for stretch in stretches])
    for row, stretch in enumerate(stretches):
        row_BT[row, : len(stretch)] = stretch
    tokens_BT, targets_BT = row_BT[:, :-1].copy(), row_BT[:, 1:].copy()
    begins_BT = tokens_BT == end_id
    for row, mark_N in enumerate(marks or ()):
        if mark_N is not None:
            inputs = len(mark_N) - 1
            begins_BT[row, :inputs] = mark_N[:-1] & BEGINS > 0
            targets_BT[row, :inputs][mark_N[1:] & SCORED == 0] = NOT_SCORED
    valid_BT = None
    if size_B.min() <= length:
        valid = np.arange(length) < size_B[:, None] - 1
        tokens_BT[~valid], targets_BT[~valid], begins_BT[~valid] = end_id, NOT_SCORED, True
        valid_BT = torch.from_numpy(valid)
    positions_BT = document_BT = None
    if isolate_documents:
        positions, document = _layout(begins_BT)
        positions_BT, document_BT = torch.from_numpy(positions), torch.from_numpy(document)
    return Batch(torch.from_numpy(tokens_BT), torch.from_numpy(targets_BT), positions_BT, document_BT, valid_BT)


def _layout(begins_BT: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions within documents and numbers of documents, [B, T] each, from where documents begin."""
    place_T = np.arange(begins_BT.shape[1], dtype=np.int64)
    began_BT = np.maximum.accumulate(np.where(begins_BT, place_T, 0), axis=1)
    document_BT = np.cumsum(begins_BT, axis=1, dtype=np.int64)
    return place_T - began_BT, document_BT - begins_BT[:, :1]
