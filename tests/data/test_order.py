import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sublayer.data.order import BLOCK, Order

STREAMS = st.lists(st.tuples(st.integers(1, 400), st.floats(1e-4, 1e3)), min_size=1, max_size=5)


@given(streams=STREAMS, seed=st.integers(-(2**70), 2**70), first=st.integers(0, 10**9), count=st.integers(1, 300))
@settings(max_examples=50, deadline=None)
def test_a_sample_is_a_pure_function_of_seed_and_number(
    streams: list[tuple[int, float]], seed: int, first: int, count: int
) -> None:
    sizes, shares = zip(*streams, strict=True)
    order = Order(sizes, shares)
    together = order.rows(seed, np.arange(first, first + count))
    backwards = order.rows(seed, np.arange(first, first + count)[::-1])
    alone = Order(sizes, shares).rows(seed, np.array([first + count // 2]))
    np.testing.assert_array_equal(together.stream_N, backwards.stream_N[::-1])
    np.testing.assert_array_equal(together.row_N, backwards.row_N[::-1])
    assert (alone.stream_N[0], alone.row_N[0]) == (together.stream_N[count // 2], together.row_N[count // 2])


@given(streams=STREAMS, seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_every_row_comes_once_an_epoch(streams: list[tuple[int, float]], seed: int) -> None:
    sizes, shares = zip(*streams, strict=True)
    rows = Order(sizes, shares).rows(seed, np.arange(BLOCK * 20))
    for stream, size in enumerate(sizes):
        # Blocks are shuffled, so only what is drawn counts here: no row is ever an epoch ahead of another.
        drawn = np.bincount(rows.row_N[rows.stream_N == stream], minlength=size)
        assert len(drawn) == size
        assert drawn.max() - drawn.min() <= 1


@given(streams=STREAMS, blocks=st.integers(1, 60))
@settings(max_examples=50, deadline=None)
def test_shares_are_kept_in_the_long_run(streams: list[tuple[int, float]], blocks: int) -> None:
    sizes, shares = zip(*streams, strict=True)
    rows = Order(sizes, shares).rows(0, np.arange(BLOCK * blocks))
    drawn = np.bincount(rows.stream_N, minlength=len(sizes))
    expected = np.array(shares) / sum(shares) * BLOCK * blocks
    assert np.abs(drawn - expected).max() < 2.01


def test_another_seed_gives_another_order() -> None:
    order = Order([1000, 50], [3.0, 1.0])
    one, two = order.rows(1, np.arange(256)), order.rows(2, np.arange(256))
    assert (one.row_N != two.row_N).mean() > 0.9
    assert (one.stream_N != two.stream_N).mean() > 0.2


def test_epochs_differ() -> None:
    rows = Order([100], [1.0]).rows(0, np.arange(BLOCK * 25)).row_N
    assert (rows[:100] != rows[100:200]).mean() > 0.9


def test_streams_are_not_in_step_with_the_ranks_of_a_world() -> None:
    streams = Order([100, 100], [1.0, 1.0]).rows(0, np.arange(BLOCK * 100)).stream_N
    for world in (2, 4, 8, 16):
        assert np.abs(streams.reshape(-1, world).mean(axis=0) - 0.5).max() < 0.1


def test_the_order_of_a_release_is_the_order_of_the_next() -> None:
    rows = Order([10, 7], [2.0, 1.0]).rows(5, np.arange(12))
    assert list(zip(rows.stream_N.tolist(), rows.row_N.tolist(), strict=True)) == [
        *[(0, 0), (0, 2), (1, 1), (0, 0), (0, 2), (0, 4), (0, 7), (1, 4), (0, 4), (0, 1), (1, 1), (1, 2)]
    ]


def test_far_samples_are_within_reach() -> None:
    order = Order([10**9, 3], [1.0, 1e-6])
    rows = order.rows(0, np.array([2**38 - 1]))
    assert 0 <= rows.row_N[0] < 10**9


@pytest.mark.parametrize(("sizes", "shares"), [([], []), ([1], [0.0]), ([0], [1.0])])
def test_our_own_mistakes_are_caught(sizes: list[int], shares: list[float]) -> None:
    with pytest.raises(AssertionError):
        Order(sizes, shares)
