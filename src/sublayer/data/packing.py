"""Stretches of a stream as rows of inputs, targets and layout.

Shape suffixes: B batch (rows), T length, S length of a source, N tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sublayer.data.shards import Tokens
from sublayer.data.tokenizing import BEGINS, SCORED

NOT_SCORED = -100
"""The target of a place that has none (PyTorch's `ignore_index`)."""


@dataclass(frozen=True, slots=True)
class SourceRows:
    """Rows for an encoder, in the terms of `Batch`."""

    tokens_BS: Tensor
    positions_BS: Tensor | None
    document_BS: Tensor | None
    valid_BS: Tensor | None


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows for the model, int64 on the CPU.

    Attributes:
        tokens_BT: inputs.
        targets_BT: the token to predict at each place, −100 where none is; [B] of a classification, a class each.
        positions_BT: positions within the document, counted from the row's start where the document began before it;
            None when a row is one document.
        document_BT: the number of the document within the row, from 0; None when a row is one document.
        valid_BT: bool, False for padding; None when there is none.
        source: what an encoder reads, for an encoder-decoder; the documents of both sides have the same numbers.
        segment_BT: of rows of two texts which one each token is in, 0 or 1; None when no row has a second one.
    """

    tokens_BT: Tensor
    targets_BT: Tensor
    positions_BT: Tensor | None
    document_BT: Tensor | None
    valid_BT: Tensor | None
    source: SourceRows | None = None
    segment_BT: Tensor | None = None

    @property
    def n_tokens(self) -> int:
        """Places of all rows, of both sides."""
        return self.tokens_BT.numel() + (0 if self.source is None else self.source.tokens_BS.numel())


class Laid(NamedTuple):
    """Rows of inputs and where they stand, as arrays: like `Batch`, without targets."""

    tokens_BT: NDArray[np.int64]
    positions_BT: NDArray[np.int64] | None
    document_BT: NDArray[np.int64] | None
    valid_BT: NDArray[np.bool_] | None

    def tensors(self) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Tokens, positions, documents and what is valid."""
        positions, document, valid = (None if array is None else torch.from_numpy(array) for array in self[1:])
        return torch.from_numpy(self.tokens_BT), positions, document, valid


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
    marks = marks or [None] * len(stretches)
    laid = laid_out(
        [stretch[:-1] for stretch in stretches],
        [None if mark_N is None else mark_N[:-1] for mark_N in marks],
        length,
        end_id,
        isolate_documents,
    )
    targets_BT = np.full(laid.tokens_BT.shape, NOT_SCORED, dtype=np.int64)
    for row, (stretch, mark_N) in enumerate(zip(stretches, marks, strict=True)):
        target_N = targets_BT[row, : len(stretch) - 1]
        target_N[:] = stretch[1:]
        if mark_N is not None:
            target_N[mark_N[1:] & SCORED == 0] = NOT_SCORED
    tokens, positions, document, valid = laid.tensors()
    return Batch(tokens, torch.from_numpy(targets_BT), positions, document, valid)


def laid_out(
    rows: Sequence[Tokens],
    marks: Sequence[NDArray[np.uint8] | None],
    length: int,
    end_id: int,
    isolate_documents: bool,
) -> Laid:
    """Rows of inputs, padded at their end.

    Args:
        rows: the tokens of each row, at most T.
        marks: of each row those tokens' marks, which say where documents begin; None where one begins at each `end_id`.
        length: T.
        end_id: what padding is made of.
        isolate_documents: give positions and documents.
    """
    tokens_BT = np.full((len(rows), length), end_id, dtype=np.int64)
    for row, tokens_N in enumerate(rows):
        tokens_BT[row, : len(tokens_N)] = tokens_N
    valid_BT = None
    size_B = np.array([len(tokens_N) for tokens_N in rows])
    if size_B.min() < length:
        valid_BT = np.arange(length) < size_B[:, None]
    if not isolate_documents:
        return Laid(tokens_BT, None, None, valid_BT)
    # Each place of padding is a document of its own.
    begins_BT = tokens_BT == end_id
    for row, mark_N in enumerate(marks):
        if mark_N is not None:
            begins_BT[row, : len(mark_N)] = mark_N & BEGINS > 0
    return Laid(tokens_BT, *_layout(begins_BT), valid_BT)


class Piece(NamedTuple):
    """A document of a row with two sides, or a stretch of one.

    Attributes:
        source_S: what the encoder reads, at least one token.
        inputs_T: what the decoder reads; it may be empty.
        targets_T: the token to predict at each of its places.
    """

    source_S: NDArray[np.int64]
    inputs_T: NDArray[np.int64]
    targets_T: NDArray[np.int64]


def two_sided(
    rows: Sequence[Sequence[Piece]], source_length: int, length: int, end_id: int, isolate_documents: bool
) -> Batch:
    """Rows for an encoder and a decoder, each side padded at its end.

    Args:
        rows: the pieces of each row; they fit.
        source_length: S.
        length: T.
        end_id: what padding is made of.
        isolate_documents: give positions and documents; a piece has the same number on both sides.
    """
    sources, inputs, targets = ([[piece[side] for piece in row] for row in rows] for side in range(3))
    read, written = (
        _side(side, size, end_id, isolate_documents) for side, size in ((sources, source_length), (inputs, length))
    )
    targets_BT = np.full((len(rows), length), NOT_SCORED, dtype=np.int64)
    for row, stretches in enumerate(targets):
        target_T = np.concatenate(stretches)
        targets_BT[row, : len(target_T)] = target_T
    tokens, positions, document, valid = written.tensors()
    return Batch(tokens, torch.from_numpy(targets_BT), positions, document, valid, SourceRows(*read.tensors()))


def _side(rows: Sequence[Sequence[NDArray[np.int64]]], length: int, end_id: int, isolate_documents: bool) -> Laid:
    """Stretches one after another, each with its place in the row as its number."""
    shape = len(rows), length
    tokens_BT = np.full(shape, end_id, dtype=np.int64)
    positions_BT, document_BT = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    size_B = np.zeros(len(rows), dtype=np.int64)
    for row, stretches in enumerate(rows):
        sizes = [len(stretch) for stretch in stretches]
        size = size_B[row] = sum(sizes)
        tokens_BT[row, :size] = np.concatenate(stretches)
        begins = np.cumsum(sizes) - sizes
        positions_BT[row, :size] = np.arange(size) - np.repeat(begins, sizes)
        document_BT[row, :size] = np.repeat(np.arange(len(sizes)), sizes)
        # Each place of padding is a document of its own.
        document_BT[row, size:] = len(sizes) + np.arange(length - size)
    valid_BT = np.arange(length) < size_B[:, None] if size_B.min() < length else None
    if not isolate_documents:
        return Laid(tokens_BT, None, None, valid_BT)
    return Laid(tokens_BT, positions_BT, document_BT, valid_BT)


def segments(
    tokens_BT: Tensor, valid_BT: Tensor | None, end_id: int, second_B: Sequence[bool] | None = None
) -> Tensor | None:
    """Which of two texts each token is in, [B, T]: 0 up to the end token between them, with it, and 1 behind it.

    Args:
        tokens_BT: a document a row, which begins with the end token.
        valid_BT: False for padding; None when there is none.
        end_id: the end token.
        second_B: whether all of a row behind its first token is of the second text.

    Returns:
        None where no row has a second text.
    """
    between_BT = tokens_BT == end_id
    between_BT[:, 0] = False
    if valid_BT is not None:
        between_BT &= valid_BT
    segment_BT = (between_BT.cumsum(1) - between_BT.long()).clamp(max=1)
    if second_B is not None:
        segment_BT[torch.tensor(second_B), 1:] = 1
    return segment_BT if bool(between_BT.any()) or any(second_B or ()) else None


def _layout(begins_BT: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions within documents and numbers of documents, [B, T] each, from where documents begin."""
    place_T = np.arange(begins_BT.shape[1], dtype=np.int64)
    began_BT = np.maximum.accumulate(np.where(begins_BT, place_T, 0), axis=1)
    document_BT = np.cumsum(begins_BT, axis=1, dtype=np.int64)
    return place_T - began_BT, document_BT - begins_BT[:, :1]
