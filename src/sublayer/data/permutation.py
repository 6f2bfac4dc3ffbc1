"""Keyed pseudo-random permutations of any size in constant memory, vectorised.

A balanced Feistel network permutes the integers of an even number of bits; applying it again to whatever falls outside
0 … n−1 ("cycle walking") permutes those alone.  Luby & Rackoff 1988; Black & Rogaway 2002, §3.

Shape suffixes: N values.
"""

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

ROUNDS = 6


def mixed(*words: int | Words) -> Words:
    """A 64-bit hash of integers and arrays of them, elementwise."""
    state = np.zeros(1, dtype=np.uint64)
    for word in words:
        added = np.atleast_1d(np.asarray(word % (1 << 64) if isinstance(word, int) else word, dtype=np.uint64))
        state = _scrambled(state + added + np.uint64(0x9E3779B97F4A7C15))
    return state


def uniform(hashed_N: Words) -> NDArray[np.float64]:
    """Hashes as numbers from 0 up to 1, 1 left out."""
    return (hashed_N >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permuted(values_N: NDArray[np.int64], size: int, key_N: Words) -> NDArray[np.int64]:
    """Where each value goes in the permutation of 0 … size−1 that its key picks.

    Args:
        values_N: integers from 0 to size−1.
        size: how many integers the permutation is of, from 1 to 2⁶².
        key_N: a key for each value, or one for all; values with equal keys go through the same permutation.
    """
    half = np.uint64((max(size - 1, 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << int(half)) - 1)
    keys_RN = [np.broadcast_to(mixed(number, key_N), values_N.shape) for number in range(ROUNDS)]
    result_N = values_N.astype(np.uint64)
    outside_N = np.arange(len(result_N))
    while len(outside_N):  # at least a quarter of the network's integers lie inside, so a few turns are enough
        left, right = result_N[outside_N] >> half, result_N[outside_N] & mask
        for key_N in keys_RN:
            left, right = right, left ^ (_scrambled(key_N[outside_N] ^ right) & mask)
        result_N[outside_N] = (left << half) | right
        outside_N = outside_N[result_N[outside_N] >= size]
    return result_N.astype(np.int64)


def _scrambled(word_N: Words) -> Words:
    """The finaliser of splitmix64 (Steele et al. 2014), a bijection of 64-bit words."""
    word_N = (word_N ^ (word_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word_N = (word_N ^ (word_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word_N ^ (word_N >> np.uint64(31))
