"""Which tokens of a stream each row reads: contiguous stretches, or whole documents.

Shape suffixes: N tokens, D documents, R rows.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sublayer.data.tokenizing import SCORED


class Rows(ABC):
    """Which tokens of a stream each row reads.

    Attributes:
        filled: places of all rows, without padding.
        truncated: how many documents are cut off.
        left_out: how many rows are left out because nothing in them is scored.
    """

    filled: int
    truncated: int = 0
    left_out: int = 0

    @abstractmethod
    def __len__(self) -> int:
        """How many rows there are."""

    @abstractmethod
    def stretch(self, row: int) -> tuple[int, int]:
        """The first token that a row reads, and the one behind the last."""

    def label(self, row: int) -> int:
        """The number of a row's class, where rows have one."""
        return -1

    def segment(self, row: int) -> int:
        """Which of two texts a row begins in, 0 or 1, where documents are two texts."""
        return 0


class Contiguous(Rows):
    """Row r reads tokens r·T … r·T+T−1, one after another, and is scored on the ones after each, or on themselves.

    Args:
        tokens: N.
        length: T.
        full: leave out a shorter last row.
        ahead: how far behind its input a target stands: 1, or 0 where inputs are their own targets.
    """

    def __init__(self, tokens: int, length: int, full: bool, ahead: int = 1) -> None:
        self._tokens, self._length, self._ahead = tokens, length, ahead
        targets = max(0, tokens - ahead)
        self._n_rows = targets // length if full else -(-targets // length)
        self.filled = min(self._n_rows * length, targets)

    def __len__(self) -> int:
        return self._n_rows

    def stretch(self, row: int) -> tuple[int, int]:
        return row * self._length, min((row + 1) * self._length + self._ahead, self._tokens)


def together(*sides: tuple[NDArray[np.integer[Any]], int]) -> NDArray[np.int64]:
    """The first document of each row, where a row takes as many consecutive documents as fit, and at least one, [R].

    Args:
        sides: the sizes of the documents, [D], and how much of them fits in a row; on each side they must fit.
    """
    n_documents = len(sides[0][0])
    after_D = np.full(n_documents, n_documents)
    for size_D, most in sides:
        end_D = np.cumsum(size_D, dtype=np.int64)
        after_D = np.minimum(after_D, np.searchsorted(end_D, end_D - size_D + most, side="right"))
    after = np.maximum(after_D, np.arange(1, n_documents + 1)).tolist()  # the first document of the row behind
    first, firsts = 0, []
    while first < n_documents:
        firsts.append(first)
        first = after[first]
    return np.array(firsts, dtype=np.int64)


class WholeDocuments(Rows):
    """A row reads consecutive documents that fit in T+1 tokens together, as many as do.

    A longer document has a row of its own, and what does not fit is cut off.  A row in which nothing is scored is left
    out.

    Args:
        length_D: tokens of each document.
        scored_D: those of them that are targets.
        marks_N: of each token.
        length: T.
        ahead: how far behind its input a target stands: 1, or 0, and then T tokens have to hold the documents.
    """

    def __init__(
        self,
        length_D: NDArray[np.uint32],
        scored_D: NDArray[np.uint32],
        marks_N: NDArray[np.uint8],
        length: int,
        ahead: int = 1,
    ) -> None:
        most = length + ahead
        end_D = np.cumsum(length_D, dtype=np.int64)
        begin_D = end_D - length_D
        first_R = together((length_D, most))
        after_R = np.append(first_R[1:], len(end_D))
        begin_R, end_R = begin_D[first_R], end_D[after_R - 1]
        scored_to_D = np.append(0, np.cumsum(scored_D, dtype=np.int64))
        scored_R = scored_to_D[after_R] - scored_to_D[first_R]
        cut_R = end_R - begin_R > most
        end_R = np.where(cut_R, begin_R + most, end_R)
        for row in np.flatnonzero(cut_R & (scored_R > 0)).tolist():
            scored_R[row] = np.count_nonzero(marks_N[begin_R[row] : end_R[row]] & SCORED)
        self._begin_R, self._end_R = begin_R[scored_R > 0], end_R[scored_R > 0]
        self.filled = int((self._end_R - self._begin_R - ahead).sum())
        self.truncated = int(np.count_nonzero(cut_R))
        self.left_out = int(np.count_nonzero(scored_R == 0))

    def __len__(self) -> int:
        return len(self._begin_R)

    def stretch(self, row: int) -> tuple[int, int]:
        return int(self._begin_R[row]), int(self._end_R[row])
