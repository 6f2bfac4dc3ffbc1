"""Which tokens of a stream each row reads: contiguous stretches, or whole documents.

Shape suffixes: N tokens, D documents, R rows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sublayer.data.tokenizing import SCORED


@dataclass(frozen=True, slots=True)
class Contiguous:
    """Row r reads tokens r·T … r·T+T−1 and is scored on the ones after each.

    Attributes:
        tokens: N.
        length: T.
        full: leave out a shorter last row.
    """

    tokens: int
    length: int
    full: bool

    def __len__(self) -> int:
        targets = max(0, self.tokens - 1)
        return targets // self.length if self.full else -(-targets // self.length)

    def stretch(self, row: int) -> tuple[int, int]:
        """The first token of a row, and the one behind its last target."""
        return row * self.length, min((row + 1) * self.length + 1, self.tokens)

    @property
    def filled(self) -> int:
        """Inputs of all rows, without padding."""
        return min(len(self) * self.length, max(0, self.tokens - 1))

    @property
    def truncated(self) -> int:
        """How many documents are cut off: none, as the next row goes on."""
        return 0

    @property
    def left_out(self) -> int:
        """How many rows are left out because nothing in them is scored: none."""
        return 0


class WholeDocuments:
    """A row reads consecutive documents that fit in T+1 tokens together, as many as do.

    A longer document has a row of its own, and what does not fit is cut off.  A row in which nothing is scored is left
    out.

    Args:
        length_D: tokens of each document.
        scored_D: those of them that are targets.
        marks_N: of each token.
        length: T.

    Attributes:
        filled: inputs of all rows, without padding.
        truncated: how many documents are cut off.
        left_out: how many rows are left out.
    """

    def __init__(
        self, length_D: NDArray[np.uint32], scored_D: NDArray[np.uint32], marks_N: NDArray[np.uint8], length: int
    ) -> None:
        end_D = np.cumsum(length_D, dtype=np.int64)
        begin_D = end_D - length_D
        fits_D = np.searchsorted(end_D, begin_D + length + 1, side="right")
        after_D = np.maximum(fits_D, np.arange(1, len(end_D) + 1)).tolist()  # the first document of the row behind
        first, firsts = 0, []
        while first < len(after_D):
            firsts.append(first)
            first = after_D[first]
        first_R = np.array(firsts, dtype=np.int64)
        after_R = np.append(first_R[1:], len(end_D))
        begin_R, end_R = begin_D[first_R], end_D[after_R - 1]
        scored_to_D = np.append(0, np.cumsum(scored_D, dtype=np.int64))
        scored_R = scored_to_D[after_R] - scored_to_D[first_R]
        cut_R = end_R - begin_R > length + 1
        end_R = np.where(cut_R, begin_R + length + 1, end_R)
        for row in np.flatnonzero(cut_R & (scored_R > 0)).tolist():
            scored_R[row] = np.count_nonzero(marks_N[begin_R[row] : end_R[row]] & SCORED)
        self._begin_R, self._end_R = begin_R[scored_R > 0], end_R[scored_R > 0]
        self.filled = int((self._end_R - self._begin_R - 1).sum())
        self.truncated = int(np.count_nonzero(cut_R))
        self.left_out = int(np.count_nonzero(scored_R == 0))

    def __len__(self) -> int:
        return len(self._begin_R)

    def stretch(self, row: int) -> tuple[int, int]:
        """The first token of a row, and the one behind its last target."""
        return int(self._begin_R[row]), int(self._end_R[row])


Rows = Contiguous | WholeDocuments
