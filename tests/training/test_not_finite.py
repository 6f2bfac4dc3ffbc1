"""A loss or gradient that is no number costs its step and nothing else."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sublayer.api import load, train
from sublayer.checkpoint.tensors import read_tensors
from sublayer.errors import RunError
from sublayer.model import Transformer

from .runs import Crash, CrashAt, Notes, scalars, tree

Spoil = Callable[[Transformer], None]


def loss_not_a_number(model: Transformer) -> None:
    """The loss itself, with gradients to match."""
    real = model.forward

    def forward(*arguments: Any, **options: Any) -> Any:
        model.forward = real  # type: ignore[method-assign]
        out = real(*arguments, **options)
        object.__setattr__(out, "loss", out.loss * math.nan)
        return out

    model.forward = forward  # type: ignore[method-assign]


def infinite_gradient(model: Transformer) -> None:
    """One value of one gradient, while the loss is as ever."""
    weight = model.blocks[0].attention.query.weight

    def spoil(gradient: Tensor) -> Tensor:
        handle.remove()
        gradient = gradient.clone()
        gradient[0, 0] = math.inf
        return gradient

    handle = weight.register_hook(spoil)


@pytest.fixture
def spoil_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[int, Spoil]], None]:
    """Plants what goes wrong, by step."""

    def plant(steps: Mapping[int, Spoil]) -> None:
        from sublayer.training import loop

        real_shares, models = loop.shares, []

        class Watched(Transformer):
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options)
                models.append(self)

        def shares(corpus: Any, config: Any, step: int, threads: int) -> Any:
            if step + 1 in steps:
                steps[step + 1](models[-1])
            return real_shares(corpus, config, step, threads)

        monkeypatch.setattr(loop, "Transformer", Watched)
        monkeypatch.setattr(loop, "shares", shares)

    return plant


def weights(run: Path, step: int) -> dict[str, Tensor]:
    state = read_tensors(run / "checkpoints" / f"step-{step:08d}" / "model-00001-of-00001.safetensors")
    return {name: tensor for name, tensor in state.items() if not name.startswith("rng.")}


@pytest.mark.parametrize("spoil", [loss_not_a_number, infinite_gradient])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_step_is_skipped_counted_and_told(
    spoil: Spoil, optimizer: str, notes: Path, tmp_path: Path, spoil_at: Callable[[Mapping[int, Spoil]], None]
) -> None:
    spoil_at({3: spoil})
    watcher, run = Notes(), tmp_path / "run"
    config = tree(notes, optimizer=optimizer, checkpoint_every=1, keep_checkpoints=9, accumulation=2, steps=5)
    train(config, out=run, watcher=watcher)
    assert watcher.notes == ["step 3: the loss or a gradient is not finite; the step was skipped."]
    before, after, later = weights(run, 2), weights(run, 3), weights(run, 4)
    # Neither the weights nor what the optimizer remembers took it in.
    assert any("optimizer." in name for name in before)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not all(torch.equal(value, later[name]) for name, value in before.items())
    assert all(bool(value.isfinite().all()) for value in weights(run, 5).values())
    assert json.loads((run / "summary.json").read_text())["skipped"] == 1
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines if "skipped" in line] == [0, 0, 1, 1, 1]


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def test_figures_stay_json(notes: Path, tmp_path: Path, spoil_at: Callable[[Mapping[int, Spoil]], None]) -> None:
    spoil_at({2: loss_not_a_number, 4: infinite_gradient})
    config = tree(notes, logging={"every": 1, "tensorboard": True})
    with pytest.raises(Crash):
        train(config, out=tmp_path / "run", watcher=CrashAt(3))
    train(out=tmp_path / "run", resume=True)
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    figures = {
        line["step"]: line
        for line in (json.loads(line, parse_constant=refuse) for line in text.splitlines())
        if "skipped" in line
    }
    assert figures[2]["loss"] is None
    assert figures[2]["grad_norm"] is None
    assert figures[4]["loss"] is not None
    assert figures[4]["grad_norm"] is None
    assert [step for step, _ in scalars(tmp_path / "run")["loss"]] == [1, 3, 4, 5, 6]


def test_a_curve_is_drawn_over_the_gap(
    notes: Path, tmp_path: Path, spoil_at: Callable[[Mapping[int, Spoil]], None]
) -> None:
    from sublayer.training.curve import draw_curve

    spoil_at({1: loss_not_a_number})
    train(tree(notes, steps=3), out=tmp_path / "run")
    draw_curve(tmp_path / "run", tmp_path / "loss.svg")
    assert "nan" not in (tmp_path / "loss.svg").read_text().lower().replace("nanmean", "")


def test_the_count_survives_a_resume(
    notes: Path, tmp_path: Path, spoil_at: Callable[[Mapping[int, Spoil]], None]
) -> None:
    spoil_at({1: infinite_gradient, 2: infinite_gradient})
    run = tmp_path / "run"
    with pytest.raises(Crash):
        train(tree(notes), out=run, watcher=CrashAt(3))
    spoil_at({5: infinite_gradient})
    train(out=run, resume=True)
    assert json.loads((run / "summary.json").read_text())["skipped"] == 3


def test_ten_in_a_row_end_the_run(notes: Path, tmp_path: Path, spoil_at: Callable[[Mapping[int, Spoil]], None]) -> None:
    spoil_at(dict.fromkeys(range(3, 30), infinite_gradient))
    with pytest.raises(RunError) as raised:
        train(tree(notes, steps=40, checkpoint_every=5), out=tmp_path / "run")
    message = str(raised.value)
    assert message.startswith("no finite loss or gradient in the last 10 steps, up to step 12; ")
    assert "the largest gradients are in blocks.0.attention.query.weight (inf), " in message
    assert raised.value.exit_code == 1
    # The row goes on where a resume finds it: steps 3 … 10 are in the state, so two more are enough.
    with pytest.raises(RunError, match="in the last 10 steps, up to step 12"):
        train(out=tmp_path / "run", resume=True)
    load(tmp_path / "run")


def test_nine_in_a_row_do_not(notes: Path, tmp_path: Path, spoil_at: Callable[[Mapping[int, Spoil]], None]) -> None:
    spoil_at(dict.fromkeys([*range(1, 10), *range(11, 20)], loss_not_a_number))
    train(tree(notes, steps=20), out=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["skipped"] == 18
