"""A run that was broken and resumed is the run that was never stopped, bit for bit."""

import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings

from sublayer.api import load, train
from sublayer.checkpoint.tensors import read_tensors
from sublayer.measures.score import Score
from sublayer.model import ModelConfig
from sublayer.training import Stopped, Watcher
from tests.properties.composition import compositions, source_for

from .runs import Crash, CrashAt, StopAt, assert_equal_runs, scalars, tree

DROPOUT = {"dropout": 0.2}
CONFIGS: dict[str, dict[str, Any]] = {
    "adamw": {"model": DROPOUT, "accumulation": 2, "optimizer": "adamw", "clip_norm": 0.5},
    "muon": {"model": DROPOUT, "accumulation": 2, "optimizer": {"kind": "muon", "lr": 0.02, "weight_decay": 0.1}},
    "unequal layers": {
        "model": {
            "dropout": 0.1,
            "n_layers": 2,
            "position": "alibi",
            "attention": {"n_heads": 4, "n_kv_heads": 2, "dropout": 0.1},
            "residual": "post_norm",
            "norm": "layer",
            "tied_embeddings": False,
            "layers": [{}, {"attention": {"pattern": {"kind": "window", "size": 4}}, "feed_forward": "gelu"}],
        },
        "optimizer": "muon",
        "schedule": {"kind": "wsd", "warmup": 2},
    },
    "learned positions": {
        "model": {"dropout": 0.5, "position": "learned"},
        "accumulation": 4,
        "schedule": {"kind": "linear", "warmup": 1},
        "clip_norm": None,
    },
    "randomized positions": {
        "model": {"n_layers": 2, "position": {"kind": "randomized", "position": "transformer_xl"}},
        "accumulation": 2,
    },
}


def broken_and_resumed(config: dict[str, Any], directory: Path, *breaks: Watcher) -> Path:
    for number, watcher in enumerate(breaks):
        with pytest.raises((Stopped, Crash)):
            train(config, out=directory, resume=number > 0, watcher=watcher)
    train(out=directory, resume=True)
    return directory


@pytest.mark.parametrize("name", CONFIGS)
def test_stopped_and_resumed_equals_never_stopped(name: str, notes: Path, tmp_path: Path) -> None:
    config = tree(notes, **CONFIGS[name])
    train(config, out=tmp_path / "whole")
    # Once asked to stop, so that the state is of that very step; once torn off, so that steps are done again.
    broken_and_resumed(config, tmp_path / "broken", StopAt(3), CrashAt(6))
    assert_equal_runs(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.parametrize("step", range(1, 7))
def test_torn_off_behind_any_step(step: int, notes: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    config = tree(notes, model=DROPOUT, optimizer="muon", checkpoint_every=4, evaluate_every=2)
    whole = tmp_path_factory.getbasetemp() / "torn-off-whole"
    if not whole.exists():
        train(config, out=whole)
    broken = tmp_path_factory.mktemp("broken") / "run"
    broken_and_resumed(config, broken, CrashAt(step))
    assert_equal_runs(whole, broken)


OBJECTIVES = {"decoder": "causal", "encoder": "masked", "encoder_decoder": "span_corruption"}


def check_composition(config: ModelConfig, tmp_path_factory: pytest.TempPathFactory, notes: Path) -> None:
    values = tree(notes, steps=3, checkpoint_every=1, evaluate_every=2) | {"model": config.tree()}
    values["data"]["objective"] = OBJECTIVES[config.stack]
    folder = tmp_path_factory.mktemp("composition")
    run = train(values, out=folder / "whole")
    broken_and_resumed(values, folder / "broken", CrashAt(2))
    assert_equal_runs(folder / "whole", folder / "broken")
    # Saved and loaded: the same logits.
    model, _ = load(folder / "broken")
    tokens = torch.arange(16)[None]
    source = source_for(model, 1)
    assert torch.equal(model(tokens, source=source).logits, run.model(tokens, source=source).logits)


LEGAL = compositions(dropout=True, fixed={"vocab_size": None})


@settings(max_examples=4)
@given(config=LEGAL)
def test_random_compositions(config: ModelConfig, tmp_path_factory: pytest.TempPathFactory, notes: Path) -> None:
    check_composition(config, tmp_path_factory, notes)


@pytest.mark.slow
@settings(max_examples=100, derandomize=False)
@given(config=LEGAL)
def test_many_random_compositions(config: ModelConfig, tmp_path_factory: pytest.TempPathFactory, notes: Path) -> None:
    check_composition(config, tmp_path_factory, notes)


def test_tensorboard_has_each_step_once(notes: Path, tmp_path: Path) -> None:
    config = tree(notes, logging={"every": 1, "tensorboard": True})
    train(config, out=tmp_path / "whole")
    broken_and_resumed(config, tmp_path / "broken", CrashAt(4), StopAt(5))
    before, after = scalars(tmp_path / "whole"), scalars(tmp_path / "broken")
    assert [step for step, _ in before["loss"]] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in before["held_out/notes/bits_per_byte"]] == [3, 6]
    assert after == before
    lines = [json.loads(line) for line in (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert losses == pytest.approx(dict(before["loss"]), rel=1e-6)


def test_the_clock_is_kept_apart_and_each_step_once(notes: Path, tmp_path: Path) -> None:
    directory = broken_and_resumed(tree(notes), tmp_path / "run", CrashAt(4))
    times = [json.loads(line) for line in (directory / "timing.jsonl").read_text().splitlines()]
    assert [line["step"] for line in times if "seconds" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in times if "stages" in line] == [6]
    assert {"seconds", "tokens_per_second"} < set(times[0])


def test_a_half_written_line_of_figures_is_cut_away(notes: Path, tmp_path: Path) -> None:
    config = tree(notes)
    train(config, out=tmp_path / "whole")
    with pytest.raises(Crash):
        train(config, out=tmp_path / "broken", watcher=CrashAt(4))
    with (tmp_path / "broken" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "loss": 5.')
    train(out=tmp_path / "broken", resume=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "broken")


def test_sigterm_is_as_good_as_ctrl_c(notes: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="stopped by SIGTERM at step 3 of 6; everything is saved"):
        train(tree(notes), out=tmp_path / "run", watcher=StopAt(3, signal.SIGTERM))
    assert (tmp_path / "run" / "checkpoints" / "step-00000003").is_dir()
    load(tmp_path / "run")


def test_a_stop_at_the_last_step_is_no_stop(notes: Path, tmp_path: Path) -> None:
    train(tree(notes), out=tmp_path / "run", watcher=StopAt(6))


def test_the_handlers_of_signals_are_put_back(notes: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped):
        train(tree(notes), out=tmp_path / "run", watcher=StopAt(1))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_finished_run_resumed_changes_nothing(notes: Path, tmp_path: Path) -> None:
    first = train(tree(notes), out=tmp_path / "run")
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    again = train(out=tmp_path / "run", resume=True)
    assert again.held_out == first.held_out
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == {
        path: files.get(path) if path.name != "timing.jsonl" else path.read_bytes() for path in files
    }


def test_more_steps_go_on_from_the_last(notes: Path, tmp_path: Path) -> None:
    config = tree(notes, schedule="constant", evaluate_every=2)
    train(config, out=tmp_path / "run")
    train(out=tmp_path / "run", resume=True, **{"training.steps": 8})
    longer = train(config, out=tmp_path / "longer", **{"training.steps": 8})
    assert longer.config.training.steps == 8
    model, _ = load(tmp_path / "run")
    for name, value in longer.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_a_run_killed_before_its_first_state_begins_anew(notes: Path, tmp_path: Path) -> None:
    config = tree(notes, checkpoint_every=5)
    train(config, out=tmp_path / "whole")
    broken_and_resumed(config, tmp_path / "broken", CrashAt(4))
    assert_equal_runs(tmp_path / "whole", tmp_path / "broken")


def test_only_the_last_states_are_kept(notes: Path, tmp_path: Path) -> None:
    train(tree(notes, checkpoint_every=1, keep_checkpoints=3), out=tmp_path / "run")
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-00000004", "step-00000005", "step-00000006"]


def test_the_best_weights_are_those_of_the_lowest_held_out_loss(
    notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([math.nan, 4.0, 2.0, 3.0, 2.0, 5.0, 1.0])  # the last one of the whole text, not a part
    monkeypatch.setattr("sublayer.training.loop.held_out", lambda *_: {"notes": Score(next(losses), 1, 1)})
    config = tree(notes, evaluate_every=1, checkpoint_every=1, keep_checkpoints=10)
    directory = broken_and_resumed(config, tmp_path / "run", CrashAt(5))
    best = 3
    assert json.loads((directory / "summary.json").read_text())["best_step"] == best
    weights = read_tensors(directory / "best" / "model.safetensors")
    state = read_tensors(directory / "checkpoints" / f"step-{best:08d}" / "model-00001-of-00001.safetensors")
    assert all(torch.equal(value, state[f"model.{name}"]) for name, value in weights.items())
