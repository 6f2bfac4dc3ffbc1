"""Where the time goes."""

import time

import pytest

from sublayer.training.clock import Clock


def test_every_second_belongs_to_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock = Clock()
    now = 101.0
    clock.lap("data")
    now = 105.0
    clock.divide({"forward": 1.0, "backward": 3.0})  # as two threads measured it, in any unit
    now = 105.5
    clock.lap("data")
    clock.lap("saving")
    assert clock.seconds == {"backward": 3.0, "data": 1.5, "forward": 1.0, "saving": 0.0}
    assert next(iter(clock.seconds)) == "backward"


def test_what_took_no_time_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    clock = Clock()
    clock.divide({"forward": 0.0, "backward": 0.0})
    assert clock.seconds == {"forward": 0.0, "backward": 0.0}
