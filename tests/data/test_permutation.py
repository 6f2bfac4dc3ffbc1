import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sublayer.data.permutation import mixed, permuted


@given(size=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_every_integer_comes_once(size: int, key: int) -> None:
    keys = np.full(size, key, dtype=np.uint64)
    np.testing.assert_array_equal(np.sort(permuted(np.arange(size), size, keys)), np.arange(size))


@given(size=st.integers(1, 2**62), values=st.data())
def test_large_sizes_need_no_memory_and_stay_in_range(size: int, values: st.DataObject) -> None:
    drawn = values.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20, unique=True))
    result = permuted(np.array(drawn), size, mixed(7))
    assert len(set(result.tolist())) == len(drawn)
    assert (result >= 0).all()
    assert (result < size).all()


def test_a_key_for_each_value() -> None:
    values = np.arange(50)
    one, two = (permuted(values, 1000, np.full(50, key, dtype=np.uint64)) for key in (1, 2))
    alternating = permuted(values, 1000, np.where(values % 2 == 0, 1, 2).astype(np.uint64))
    np.testing.assert_array_equal(alternating, np.where(values % 2 == 0, one, two))
    assert (one != two).mean() > 0.9


def test_it_looks_random() -> None:
    size = 10_000
    result = permuted(np.arange(size), size, mixed(3)) / size
    assert abs(np.corrcoef(np.arange(size), result)[0, 1]) < 0.04
    assert abs(np.corrcoef(result[:-1], result[1:])[0, 1]) < 0.04
    assert (np.diff(result) == 1 / size).mean() < 0.001


@pytest.mark.parametrize("size", [3, 64, 100])
def test_keys_reach_every_permutation_alike(size: int) -> None:
    n_keys = 3000
    keys = np.repeat(mixed(np.arange(n_keys, dtype=np.uint64)), size)
    images = permuted(np.tile(np.arange(size), n_keys), size, keys).reshape(n_keys, size)
    steps = (images[:, 1] - images[:, 0]) % size - 1  # from one image to the next, which is another
    for table, n_cells in ((images[:, 0], size), (images[:, -1], size), (steps, size - 1)):
        counts, expected = np.bincount(table, minlength=n_cells), n_keys / n_cells
        chi_squared = ((counts - expected) ** 2 / expected).sum()
        assert chi_squared < n_cells + 5 * np.sqrt(2 * n_cells)


def test_words_are_mixed_in_order_and_wrap() -> None:
    assert mixed(1, 2) != mixed(2, 1)
    assert mixed(-1) == mixed(2**64 - 1)
    assert mixed(1, np.array([5, 6], dtype=np.uint64))[1] == mixed(1, 6)
