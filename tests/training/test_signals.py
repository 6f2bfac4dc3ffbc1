"""Ctrl-C and SIGTERM at the command line: saved, told how to go on, and gone on with as if nothing had been."""

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from sublayer.api import train

from .processes import start
from .runs import Crash, CrashAt, assert_equal_runs, leftovers, tree

CONFIG = {"steps": 8, "evaluate_every": 4, "checkpoint_every": 8, "model": {"dropout": 0.1}}


@dataclass(frozen=True)
class Signals:
    """Signals that reach the process behind a step, one after the other."""

    step: int
    numbers: tuple[signal.Signals, ...]

    def plant(self) -> None:
        from sublayer.training.watcher import Lines

        real = Lines.trained

        def trained(watcher: Any, step: int, *figures: float) -> None:
            real(watcher, step, *figures)
            if step == self.step:
                for number in self.numbers:
                    os.kill(os.getpid(), number)

        Lines.trained = trained  # type: ignore[method-assign]


@dataclass(frozen=True)
class Twice:
    """One signal behind a step, and the second in the middle of the save that follows."""

    step: int

    def plant(self) -> None:
        from sublayer.checkpoint import training_state

        Signals(self.step, (signal.SIGINT,)).plant()
        real = training_state.HuggingFaceStorageWriter.write_data

        def write_data(*arguments: Any) -> Any:
            os.kill(os.getpid(), signal.SIGINT)
            return real(*arguments)

        training_state.HuggingFaceStorageWriter.write_data = write_data  # type: ignore[method-assign]


@pytest.fixture
def config(notes: Path, tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tree(notes, **CONFIG)))
    return path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_saves_and_tells_how_to_go_on(
    number: signal.Signals, config: Path, notes: Path, tmp_path: Path
) -> None:
    run = tmp_path / "a run"
    process = start(["train", config, "--out", run], tmp_path, Signals(3, (number,)).plant)
    assert process.wait() == 1
    assert process.err == (
        f"sublayer: stopped by {number.name} at step 3 of 8; everything is saved. "
        f"Go on with: sublayer train --resume --out '{run}'\n"
    )
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000003"]
    assert (run / "model.safetensors").is_file()
    train(out=run, resume=True)
    train(tree(notes, **CONFIG), out=tmp_path / "whole")
    # The state of step 3 is one more than the whole run kept.
    assert_equal_runs(tmp_path / "whole", without(run / "checkpoints" / "step-00000003", run))


def without(path: Path, run: Path) -> Path:
    import shutil

    shutil.rmtree(path)
    return run


@pytest.mark.parametrize("plan", [Signals(3, (signal.SIGINT, signal.SIGINT)), Twice(3)])
def test_the_second_signal_ends_at_once(plan: Signals | Twice, config: Path, notes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(["train", config, "--out", run], tmp_path, plan.plant)
    assert process.wait() == 1
    assert process.err == "sublayer: interrupted.\n"
    assert not (run / "checkpoints").exists() or not list((run / "checkpoints").iterdir())
    assert not leftovers(run)
    train(out=run, resume=True)
    train(tree(notes, **CONFIG), out=tmp_path / "whole")
    assert_equal_runs(tmp_path / "whole", run)


@pytest.mark.slow
def test_a_signal_from_outside_at_any_time(notes: Path, tmp_path: Path) -> None:
    values = tree(notes, **CONFIG | {"steps": 200, "checkpoint_every": 50, "evaluate_every": 50})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    run, metrics = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    process = start(["train", tmp_path / "config.yaml", "--out", run], tmp_path)
    process.wait_for(lambda: metrics.is_file() and metrics.stat().st_size > 1000)
    process.kill(signal.SIGTERM)
    assert process.wait() == 1
    assert process.err.startswith("sublayer: stopped by SIGTERM at step ")
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert (run / "checkpoints" / f"step-{steps[-1]:08d}").is_dir()
    train(out=run, resume=True)
    train(values, out=tmp_path / "whole")
    assert (run / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert (run / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def test_while_the_data_is_made_ready(notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sublayer.api.prepare", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(tree(notes), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_outside_the_main_thread_it_trains_all_the_same(notes: Path, tmp_path: Path) -> None:
    import threading

    errors: list[BaseException] = []

    def work() -> None:
        try:
            with pytest.raises(Crash):
                train(tree(notes), out=tmp_path / "run", watcher=CrashAt(4))
            train(out=tmp_path / "run", resume=True)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors
    train(tree(notes), out=tmp_path / "whole")
    assert_equal_runs(tmp_path / "whole", tmp_path / "run")
