"""A disk that fills up ends a run in one sentence, with its last state whole."""

import errno
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from sublayer.api import train
from sublayer.checkpoint import load_state
from sublayer.errors import RunError

from .processes import start, wrap
from .runs import assert_equal_runs, leftovers, tree

resource = pytest.importorskip("resource", reason="limits of files are POSIX's")

CONFIG = {"steps": 8, "evaluate_every": 4, "model": {"dropout": 0.1}}


@dataclass(frozen=True)
class Full:
    """From the n-th call of a function on, no file can grow beyond `size` bytes."""

    function: str
    call: int
    size: int

    def plant(self) -> None:
        calls = 0

        def wrapper(real: Callable[..., Any]) -> Callable[..., Any]:
            def full(*arguments: Any, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == self.call:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))
                return real(*arguments, **options)

            return full

        wrap(self.function, wrapper)


PLACES = {
    "a state": Full("sublayer.training.state:save_state", 2, 4000),
    "the weights": Full("sublayer.training.loop:save_weights", 2, 4000),
    "the best weights": Full("sublayer.training.loop:save_model", 1, 20_000),
    "the figures": Full("sublayer.training.journal:Journal.write", 4, 300),
}


@pytest.mark.parametrize(
    "place",
    [pytest.param(place, marks=[] if place in ("a state", "the figures") else pytest.mark.slow) for place in PLACES],
)
def test_a_full_disk(place: str, notes: Path, tmp_path: Path) -> None:
    values = tree(notes, **CONFIG)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    run = tmp_path / "run"
    process = start(["train", tmp_path / "config.yaml", "--out", run], tmp_path, PLACES[place].plant)
    assert process.wait() == 1, process.err
    assert process.err.startswith(f"sublayer: the disk is full: {run}"), process.err
    assert process.err.endswith("free some space and start again.\n")
    assert process.err.count("\n") == 1
    assert not leftovers(run)
    loaded = load_state(run / "checkpoints")
    assert loaded is not None
    assert loaded[1]["progress"]["step"] in (2, 4)
    train(out=run, resume=True)
    train(values, out=tmp_path / "whole")
    assert_equal_runs(tmp_path / "whole", run)


def test_too_full_to_begin(notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.mkdir

    def full(self: Path, *arguments: Any, **options: Any) -> None:
        if self.name == "run":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", full)
        with pytest.raises(RunError, match=r"the disk is full: .*/run could not be written"):
            train(tree(notes), out=tmp_path / "run")
    train(tree(notes), out=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["step"] == 6
