"""Learning-rate schedules, against their closed forms."""

import math

import pytest

from sublayer.errors import ConfigError
from sublayer.training import TrainingConfig
from sublayer.training.schedule import (
    ConstantConfig,
    CosineConfig,
    InverseSquareRootConfig,
    LinearConfig,
    ScheduleConfig,
    WarmupStableDecayConfig,
)

STEPS = 100


def factors(schedule: ScheduleConfig, steps: int = STEPS) -> list[float]:
    return [schedule.factor(step, steps) for step in range(steps)]


def test_cosine() -> None:
    expected = [0.1 + 0.9 * (1 + math.cos(math.pi * step / STEPS)) / 2 for step in range(STEPS)]
    assert factors(CosineConfig()) == pytest.approx(expected)
    assert CosineConfig().factor(50, 100) == pytest.approx(0.55)


def test_linear() -> None:
    assert factors(LinearConfig()) == pytest.approx([1 - step / STEPS for step in range(STEPS)])
    assert LinearConfig(floor=0.2).factor(50, 100) == pytest.approx(0.6)


def test_inverse_square_root() -> None:
    found = [InverseSquareRootConfig(warmup=16).factor(step, STEPS) for step in (0, 7, 15, 63)]
    assert found == pytest.approx([1 / 16, 0.5, 1.0, 0.5])
    # Equation 3: d_model^−½ · min(step^−½, step · warmup^−1.5), its highest value taken out.
    for step in range(1, 200):
        expected = min(step**-0.5, step * 16**-1.5) / 16**-0.5
        assert InverseSquareRootConfig(warmup=16).factor(step - 1, 10) == pytest.approx(expected)


def test_constant() -> None:
    assert factors(ConstantConfig()) == [1.0] * STEPS


def test_warmup_stable_decay() -> None:
    found = factors(WarmupStableDecayConfig(warmup=20, decay=0.25, floor=0.1))
    assert found[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert found[20:81] == [1.0] * 61  # the plateau: three quarters of the 80 steps behind the warm-up
    assert found[80:] == pytest.approx([0.1 + 0.9 * (100 - step) / 20 for step in range(80, 100)])


def test_no_decay_is_a_plateau_to_the_end() -> None:
    assert factors(WarmupStableDecayConfig(decay=0.0)) == [1.0] * STEPS
    assert factors(WarmupStableDecayConfig(decay=1.0)) == pytest.approx(factors(LinearConfig()))


@pytest.mark.parametrize("kind", [CosineConfig, LinearConfig, ConstantConfig, WarmupStableDecayConfig])
def test_warm_up_rises_to_the_full_rate_and_the_rate_never_leaves_its_bounds(kind: type[ScheduleConfig]) -> None:
    found = factors(kind(warmup=10))
    assert found[:10] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert found[10] == 1.0
    assert all(0 < each <= 1 for each in found)
    assert found[10:] == sorted(found[10:], reverse=True)
    # As if the steps behind the warm-up were a run of their own.
    assert found[10:] == pytest.approx(factors(kind(), 90))


@pytest.mark.parametrize("kind", [CosineConfig, LinearConfig, ConstantConfig, WarmupStableDecayConfig])
@pytest.mark.parametrize(("warmup", "steps"), [(10, 10), (10, 5), (0, 1), (1, 1)])
def test_runs_shorter_than_their_warm_up(kind: type[ScheduleConfig], warmup: int, steps: int) -> None:
    found = factors(kind(warmup=warmup), steps)
    assert found == pytest.approx([(step + 1) / warmup if step < warmup else 1.0 for step in range(steps)])


@pytest.mark.parametrize("kind", [CosineConfig, LinearConfig, WarmupStableDecayConfig])
def test_the_floor_is_where_it_ends(kind: type[ScheduleConfig]) -> None:
    assert kind(floor=0.3).factor(STEPS, STEPS) == pytest.approx(0.3)
    assert kind(floor=0.3).factor(2 * STEPS, STEPS) == pytest.approx(0.3)


def test_words_and_options() -> None:
    assert TrainingConfig(schedule="wsd").schedule == WarmupStableDecayConfig()
    assert TrainingConfig().schedule == CosineConfig()
    with pytest.raises(ConfigError, match=r"schedule.floor: must be less than or equal to 1"):
        TrainingConfig(schedule={"kind": "cosine", "floor": 1.5})
    with pytest.raises(ConfigError, match=r"schedule: 'cosin' is not a schedule; did you mean 'cosine'"):
        TrainingConfig(schedule="cosin")
