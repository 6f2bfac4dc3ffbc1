"""Which row each training sample is: a pure function of the seed and the sample's number.

World size, accumulation and resuming only decide who asks for which numbers, so they cannot change the data.

Shape suffixes: N samples, S streams.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sublayer.data.permutation import mixed, permuted

BLOCK = 64
"""Samples shuffled among one another: small, so that every few batches hold the shares asked for."""

BITS = 24
"""Shares are exact to 2⁻²⁴; in integers, so that no rounding depends on how far training is."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of samples: `stream_N` numbers their streams, `row_N` their rows in it."""

    stream_N: NDArray[np.int64]
    row_N: NDArray[np.int64]


class Order:
    """The order of training.

    The stream of a sample is decided exactly rather than drawn: among the first n blocks, every stream has its share to
    within a sample or two.  Inside a stream every row comes once an epoch, in an order of that epoch's own.

    Args:
        n_rows: rows of each stream, at least 1.
        shares: how much of training each stream is; above 0, in any unit.
    """

    def __init__(self, n_rows: Sequence[int], shares: Sequence[float]) -> None:
        assert len(n_rows) == len(shares) > 0
        assert min(n_rows) > 0
        assert min(shares) > 0
        self._n_rows_S = np.array(n_rows, dtype=np.int64)
        # Each stream takes its part of what the streams before it left over.
        left_over_S = np.cumsum(np.array(shares, dtype=np.float64)[::-1])[::-1]
        self._part_S = [round(share / left * 2**BITS) for share, left in zip(shares, left_over_S, strict=True)]

    def rows(self, seed: int, sample_N: NDArray[np.int64]) -> Rows:
        """The rows of samples.

        Args:
            seed: any integer; another seed gives another order.
            sample_N: global sample numbers from 0, below 2³⁸.
        """
        block_N = sample_N // BLOCK
        slot_N = block_N * BLOCK + permuted(sample_N % BLOCK, BLOCK, mixed(seed, 0, block_N.astype(np.uint64)))
        before_NS, after_NS = self._counts(slot_N), self._counts(slot_N + 1)
        stream_N = np.argmax(after_NS - before_NS, axis=1)
        rank_N = before_NS[np.arange(len(sample_N)), stream_N]
        row_N = np.empty_like(rank_N)
        for stream in np.unique(stream_N).tolist():
            of_stream_N = stream_N == stream
            size = int(self._n_rows_S[stream])
            epoch_N, place_N = np.divmod(rank_N[of_stream_N], size)
            row_N[of_stream_N] = permuted(place_N, size, mixed(seed, 1 + stream, epoch_N.astype(np.uint64)))
        return Rows(stream_N, row_N)

    def _counts(self, slots_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many of the first n slots each stream has, [N, S].

        Rows sum to n and no count ever falls as n grows by one, so each slot has exactly one stream, and the count
        before it is its rank there.
        """
        left_N = slots_N
        counts = []
        for part in self._part_S:
            count_N = (left_N * part + (1 << (BITS - 1))) >> BITS if part < 1 << BITS else left_N
            counts.append(count_N)
            left_N = left_N - count_N
        return np.stack(counts, axis=1)
