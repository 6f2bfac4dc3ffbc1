"""Killed without warning, at any moment, and resumed."""

import random
import time
from pathlib import Path

import pytest
import yaml

from sublayer.api import load, train

from .processes import Kill, Started, start
from .runs import assert_equal_runs, leftovers, tree

CONFIG = {
    "model": {"dropout": 0.2},
    "accumulation": 2,
    "optimizer": "muon",
    "steps": 8,
    "evaluate_every": 2,
    "keep_checkpoints": 1,
}

MOMENTS = {
    "no state is there yet": Kill("sublayer.training.loop:held_out"),
    "the payload of a state is written, its description is not": Kill(
        "sublayer.checkpoint.training_state:save_tensors", 2, "after"
    ),
    "a state is written and not yet in its place": Kill("sublayer.files:_sync", 6),
    "old states are being deleted": Kill("sublayer.checkpoint.training_state:remove", 2),
    "half of best/model.safetensors is written": Kill("sublayer.checkpoint.tensors:save_file", 3, "half"),
    "best/ has stepped aside and its successor is not there": Kill("pathlib:Path.rename", 3, "after"),
    "half of model.safetensors is written": Kill("sublayer.checkpoint.model_directory:write_tensors", 4, "after"),
    "between the last weights and the last state": Kill("sublayer.training.loop:save_weights", 4),
    "between the last weights and the last state, the other way round": Kill("sublayer.training.state:save_state", 4),
    "the last state is written and the summary is not": Kill("sublayer.api:_write_summary"),
    "figures are written and their state is not": Kill("sublayer.training.state:save_state", 3),
}


@pytest.fixture
def config(notes: Path, tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tree(notes, **CONFIG)))
    return path


@pytest.fixture(scope="module")
def whole(notes: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that was never stopped."""
    directory = tmp_path_factory.mktemp("never-stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUBLAYER_CACHE", str(cache))
        train(tree(notes, **CONFIG), out=directory)
    return directory


def killed(process: Started) -> None:
    assert process.wait() == -9, process.out + process.err


def test_killed_in_a_save_and_while_best_is_replaced(config: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = MOMENTS["the payload of a state is written, its description is not"]
    killed(start(["train", config, "--out", run], tmp_path, first.plant))
    assert leftovers(run), "it was not killed in the middle of a save"
    second = MOMENTS["best/ has stepped aside and its successor is not there"]
    killed(start(["train", "--resume", "--out", run], tmp_path, second.plant))
    assert not (run / "best").exists()
    train(out=run, resume=True)
    assert_equal_runs(whole, run)


@pytest.mark.parametrize("moment", ["between the last weights and the last state", "no state is there yet"])
def test_killed_once(moment: str, config: Path, whole: Path, tmp_path: Path) -> None:
    killed(start(["train", config, "--out", tmp_path / "run"], tmp_path, MOMENTS[moment].plant))
    train(out=tmp_path / "run", resume=True)
    assert_equal_runs(whole, tmp_path / "run")
    load(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_every_delicate_moment(moment: str, config: Path, whole: Path, tmp_path: Path) -> None:
    killed(start(["train", config, "--out", tmp_path / "run"], tmp_path, MOMENTS[moment].plant))
    train(out=tmp_path / "run", resume=True)
    assert_equal_runs(whole, tmp_path / "run")
    load(tmp_path / "run" / "best")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_five_random_moments(seed: int, notes: Path, tmp_path: Path) -> None:
    draw = random.Random(seed)
    values = tree(notes, **CONFIG | {"steps": 60, "checkpoint_every": 3, "evaluate_every": 6, "keep_checkpoints": 2})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    train(values, out=tmp_path / "whole")
    run, metrics = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    for number in range(5):
        # The hook is a fallback in the middle of a save, should the clock be too slow for a run this short.
        process = start(
            ["train", "--resume", "--out", run] if number else ["train", tmp_path / "config.yaml", "--out", run],
            tmp_path,
            Kill("sublayer.checkpoint.training_state:save_tensors", draw.randint(3, 4), "after").plant,
        )
        process.wait_for(lambda: metrics.is_file() and (run / "config.yaml").is_file())
        time.sleep(draw.uniform(0.0, 0.6))
        process.kill()
        killed(process)
    train(out=run, resume=True)
    assert_equal_runs(tmp_path / "whole", run)
