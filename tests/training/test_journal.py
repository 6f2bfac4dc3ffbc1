"""Figures, where they go."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sublayer.api import train
from sublayer.errors import ConfigError, RunError
from sublayer.training.config import LoggingConfig
from sublayer.training.journal import Journal, cut_back, read

from .runs import Crash, CrashAt, scalars, tree

PLAIN = LoggingConfig(tensorboard=False)
FULL = Path("/dev/full")


def test_each_line_is_one_step_s_figures(tmp_path: Path) -> None:
    with Journal(tmp_path, PLAIN, 0) as journal:
        journal.write(1, {"loss": 2.5, "held_out": {"a": {"loss": 3.0}}}, timing={"seconds": 0.5})
        # Flushed at once: whoever is killed next has lost nothing of it.
        assert (
            tmp_path / "metrics.jsonl"
        ).read_text() == '{"step": 1, "loss": 2.5, "held_out": {"a": {"loss": 3.0}}}\n'
    assert (tmp_path / "timing.jsonl").read_text() == '{"step": 1, "seconds": 0.5}\n'


def test_what_is_behind_the_step_is_cut_away(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 0.1}\n{"step": 2, "loss": 1e-07}\n{"step": 3}\n{"step": 2')
    cut_back(path, 2)
    assert path.read_text() == '{"step": 1, "loss": 0.1}\n{"step": 2, "loss": 1e-07}\n'
    cut_back(path, 0)
    assert path.read_text() == ""
    cut_back(tmp_path / "nothing.jsonl", 0)


def test_a_line_cut_off_anywhere_is_passed_over(tmp_path: Path) -> None:
    path, lines = tmp_path / "metrics.jsonl", ['{"step": 1, "loss": 0.125}', '{"step": 2, "held_out": {"a": 1.5}}']
    for length in range(len(lines[1])):
        path.write_text(lines[0] + "\n" + lines[1][:length])
        assert list(read(path)) == [json.loads(lines[0])], length


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this machine")
@pytest.mark.parametrize("name", ["metrics.jsonl", "timing.jsonl"])
def test_a_full_disk_is_one_sentence(name: str, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    with pytest.raises(Crash):
        train(tree(notes), out=run, watcher=CrashAt(5))
    (run / name).unlink()
    (run / name).symlink_to(FULL)
    with pytest.raises(
        RunError, match=rf"^the disk is full: .*/{name} could not be written; free some space"
    ) as raised:
        train(out=run, resume=True)
    assert raised.value.exit_code == 1
    (run / name).unlink()
    train(out=run, resume=True)


def test_a_tensorboard_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(tmp_path, LoggingConfig(), 0) as journal:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(journal._board, "add_scalar", full)
        with pytest.raises(RunError, match=r"^the disk is full: .*/tensorboard could not be written"):
            journal.write(1, {"loss": 1.0})


def test_closing_tells_of_a_full_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, LoggingConfig(), 0)
    closed = []

    def full() -> None:
        closed.append(True)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal._board, "close", full)
    with pytest.raises(RunError, match="the disk is full"), journal:
        pass
    assert closed == [True]
    assert all(file.closed for file in journal._files.values())


def test_nothing_for_tensorboard_where_it_is_not_wanted(tmp_path: Path) -> None:
    with Journal(tmp_path, PLAIN, 0) as journal:
        journal.write(1, {"loss": 1.0})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "timing.jsonl"]


def test_figures_every_so_many_steps_and_at_the_end(notes: Path, tmp_path: Path) -> None:
    train(tree(notes, steps=5, evaluate_every=9, logging={"every": 2, "tensorboard": True}), out=tmp_path / "run")
    assert [step for step, _ in scalars(tmp_path / "run")["loss"]] == [2, 4, 5]
    assert [step for step, _ in scalars(tmp_path / "run")["held_out/notes/loss"]] == [5]


class FakeRun:
    def __init__(self) -> None:
        self.figures: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def log(self, figures: dict[str, float], step: int) -> None:
        self.figures.append((step, figures))

    def finish(self) -> None:
        self.finished += 1


def test_weights_and_biases_gets_the_same_figures(notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb, told, run = ModuleType("wandb"), [], FakeRun()

    def init(**options: Any) -> FakeRun:
        told.append(options)
        return run

    wandb.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    logging = {"every": 1, "tensorboard": False, "wandb": "my-project"}
    train(tree(notes, logging=logging), out=tmp_path / "run")
    identity = (tmp_path / "run" / "wandb-id").read_text()
    assert len(identity) == 32
    assert told == [
        {"project": "my-project", "name": "run", "id": identity, "dir": str(tmp_path / "run"), "resume": "allow"}
    ]
    assert run.finished == 1
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(step, figures["loss"]) for step, figures in run.figures if "loss" in figures] == [
        (line["step"], line["loss"]) for line in lines if "loss" in line
    ]
    assert [step for step, figures in run.figures if "held_out/notes/loss" in figures] == [3, 6]


def test_a_missing_wandb_is_refused_before_anything_is_written(
    notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"training.logging.wandb: the package wandb is not installed; pip install"):
        train(tree(notes, logging={"wandb": "my-project"}), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
