"""Co-activation, saturation and decoding steps: closed forms."""

import itertools
import math

import numpy as np
import pytest

from sublayer.measures.routing.coactivation import coactivation, independent
from sublayer.measures.routing.decisions import CHUNK
from sublayer.measures.routing.decode_step import decode_steps
from sublayer.measures.routing.saturation import saturation

from .planted import decided, drawn, tokens


def test_more_tokens_than_are_unpacked_at_once() -> None:
    expert_NK = np.sort(drawn(2 * CHUNK + 7, 9, 2), axis=1)
    decisions = decided(expert_NK, 9)
    token_M, expert_M = decisions.assignments()
    assert np.array_equal(token_M, np.repeat(np.arange(len(expert_NK)), 2))
    assert np.array_equal(expert_M, expert_NK.ravel())
    assert decisions.load_E().tolist() == np.bincount(expert_NK.ravel(), minlength=9).tolist()


def test_planted_pairs() -> None:
    pairs = np.array([[0, 1], [2, 3], [4, 5]])[np.arange(600) % 3]
    told = coactivation(decided(pairs, 6))
    assert told is not None
    assert told.share_EE[0].tolist() == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert told.expected_share_EE[0].tolist() == pytest.approx([0.0] + [1 / 5] * 5)
    assert [(i, j) for i, j, _ in told.strongest()] == [(0, 1), (2, 3), (4, 5)]
    assert told.strongest()[0][2] == pytest.approx(5.0)
    assert told.divergence == pytest.approx(math.log(5))
    assert told.chance == pytest.approx(9 / 1200)


def test_random_pairs_are_independent() -> None:
    told = coactivation(decided(drawn(20_000, 8, 3), 8))
    assert told is not None
    assert told.share_EE[0, 1] == pytest.approx(2 / 7, abs=0.02)
    assert told.expected_share_EE[0, 1] == pytest.approx(2 / 7, abs=0.02)
    assert told.divergence < 3 * told.chance


def test_independence_has_the_rows_that_are_given() -> None:
    for given in ([4, 4, 4, 4], [10, 7, 3, 2, 2], [9, 5, 5, 0], [100, 60, 30, 11], [3, 3]):
        expected_EE = independent(np.array(given))
        assert expected_EE.sum(1).tolist() == pytest.approx(given)
        assert np.allclose(expected_EE, expected_EE.T)
        i, j, k, n = (*range(min(4, len(given))), *[0] * 4)[:4]
        if len(given) >= 4:  # a_i·a_j · a_k·a_n = a_i·a_k · a_j·a_n
            assert expected_EE[i, j] * expected_EE[k, n] == pytest.approx(expected_EE[i, k] * expected_EE[j, n])
    # Every pair holds the first: there is one such table.
    assert independent(np.array([10, 6, 4])).tolist()[0] == pytest.approx([0, 6, 4], rel=1e-4)


def test_one_expert_a_token_is_never_with_another() -> None:
    assert coactivation(decided(drawn(50, 4, 1), 4)) is None


def test_the_same_state_is_saturated_and_another_is_at_chance() -> None:
    one, other = decided(drawn(20_000, 8, 2, 0), 8), decided(drawn(20_000, 8, 2, 1), 8)
    same = saturation(one, one, "step 1", 1)
    assert (same.share, same.even) == (1.0, 0.25)
    apart = saturation(other, one, "step 1", 1)
    assert apart.share == pytest.approx(0.25, abs=0.01)
    assert apart.chance == pytest.approx(0.25, abs=0.001)
    # Half of the choices: the first expert stays.
    kept = drawn(1000, 8, 2, 0)
    changed = np.stack([kept[:, 0], [next(e for e in range(8) if e not in row) for row in kept.tolist()]], axis=1)
    assert saturation(decided(changed, 8), decided(kept, 8), "", 0).share == 0.5
    with pytest.raises(ValueError, match="same tokens"):
        saturation(decided(kept[:9], 8), decided(kept, 8), "", 0)


def test_chance_knows_of_overloaded_experts() -> None:
    """Both times nine in ten tokens go to expert 0, and not the same ones."""
    draw = np.random.default_rng(0)
    before, last = (decided((draw.random(20_000) > 0.9).astype(int)[:, None], 2) for _ in range(2))
    told = saturation(before, last, "", 0)
    assert told.share == pytest.approx(0.82, abs=0.01)
    assert told.chance == pytest.approx(0.82, abs=0.01)
    assert told.even == 0.5


def test_experts_of_a_step_by_counting_all_batches() -> None:
    expert_NK = drawn(7, 5, 2, seed=4)
    steps = {step.batch: step for step in decode_steps(decided(expert_NK, 5, tokens(np.arange(7))))}
    assert list(steps) == [1, 2, 4]
    for batch, step in steps.items():
        sizes = [len(set(expert_NK[list(rows)].flatten())) for rows in itertools.combinations(range(7), batch)]
        assert step.experts == pytest.approx(sum(sizes) / len(sizes))
        assert step.even == pytest.approx(5 * (1 - (1 - 2 / 5) ** batch))
    assert steps[1].experts == pytest.approx(2.0)
