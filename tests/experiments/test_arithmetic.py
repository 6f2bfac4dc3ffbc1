"""Intervals over seeds, what they could have shown, and tokens until a loss."""

import math

import numpy as np
import pytest
from experiments.experts.arithmetic import detectable, interval, loss_at, ratio_interval, tokens_to_loss


def test_an_interval_is_students() -> None:
    # t(0.975, 2) = 4.3027 and t(0.975, 4) = 2.7764, from printed tables; s is 1 and √2.5.
    three, five = interval([1.0, 2.0, 3.0]), interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (three.mean, three.n) == (2.0, 3)
    assert three.high - 2.0 == pytest.approx(4.3027 / math.sqrt(3), abs=1e-4)
    assert 3.0 - five.low == pytest.approx(2.7764 * math.sqrt(2.5 / 5), abs=1e-4)


def test_an_interval_holds_the_mean_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    held = [each.low <= 7.0 <= each.high for each in (interval(draw.normal(7.0, 3.0, 3).tolist()) for _ in range(2000))]
    assert 0.94 < np.mean(held) < 0.96


def test_one_seed_says_nothing_of_others() -> None:
    assert (interval([3.0]).low, interval([3.0]).high) == (-math.inf, math.inf)
    assert interval([3.0]).told() == "3.000"
    assert interval([3.0]).tree["low"] is None
    assert detectable(1.0, 1) == math.inf
    with pytest.raises(ValueError, match="no values"):
        interval([])


def test_ratios_are_averaged_as_ratios() -> None:
    assert ratio_interval([0.5, 2.0]).mean == pytest.approx(1.0)
    assert ratio_interval([2.0, 2.0, 2.0]).high == pytest.approx(2.0)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_detectable_difference_is_found_as_often_as_it_says(n: int) -> None:
    draw = np.random.default_rng(n)
    samples = draw.normal(detectable(2.0, n), 2.0, (4000, n)).tolist()
    intervals = [interval(sample) for sample in samples]
    assert np.mean([each.low > 0 or each.high < 0 for each in intervals]) == pytest.approx(0.8, abs=0.02)


CURVE = [(100.0, 4.0), (200.0, 3.0), (300.0, 3.5), (400.0, 2.0)]


def test_tokens_to_a_loss_are_interpolated_where_it_was_first_reached() -> None:
    assert tokens_to_loss(CURVE, 3.25) == pytest.approx(175.0)
    assert tokens_to_loss(CURVE, 3.0) == pytest.approx(200.0)
    assert tokens_to_loss(CURVE, 2.75) == pytest.approx(350.0)
    assert tokens_to_loss(CURVE, 5.0) == 100.0
    assert tokens_to_loss(CURVE, 1.9) is None


def test_the_loss_at_a_number_of_tokens() -> None:
    assert loss_at(CURVE, 250.0) == pytest.approx(3.25)
    assert loss_at(CURVE, 400.0) == 2.0
    assert loss_at(CURVE, 401.0) is None
    # One undoes the other where the curve falls.
    assert tokens_to_loss(CURVE, loss_at(CURVE, 130.0) or 0.0) == pytest.approx(130.0)
