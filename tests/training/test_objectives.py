"""Runs of other objectives than the next token: they learn, their figures are told, and they go on bit for bit."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from sublayer.api import load, train
from sublayer.errors import ConfigError
from sublayer.run import read_config

from .runs import Crash, CrashAt, assert_equal_runs, tree


def masked(notes: Path, **training: Any) -> dict[str, Any]:
    values = tree(notes, model={"stack": "encoder", "dropout": 0.1}, **training)
    values["data"]["objective"] = "masked"
    return values


@pytest.mark.parametrize("step", [3, 5])
def test_a_masked_run_goes_on_bit_for_bit(notes: Path, tmp_path: Path, step: int) -> None:
    train(masked(notes), out=tmp_path / "whole")
    with pytest.raises(Crash):
        train(masked(notes), out=tmp_path / "broken", watcher=CrashAt(step))
    train(out=tmp_path / "broken", resume=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "broken")


def test_the_figures_of_a_masked_run(notes: Path, tmp_path: Path) -> None:
    run = train(masked(notes, baselines=True), out=tmp_path / "run")
    score, baseline = run.held_out["notes"], run.baselines["notes"]
    assert set(score.figures()) == {"loss", "accuracy"}
    assert baseline.marginal is not None
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["held_out"]["notes"] == score.figures()
    assert summary["baselines"]["notes"] == {"marginal": baseline.marginal.figures()}
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(set(line["held_out"]["notes"]) == {"loss", "accuracy"} for line in lines if "held_out" in line)
    model, tokenizer = load(tmp_path / "run" / "best")
    assert model.config.stack == "encoder"
    assert tokenizer.special_id(["<mask>"]) == tokenizer.vocab_size - 1


def test_threads_and_micro_batches_change_nothing_but_rounding(notes: Path, tmp_path: Path) -> None:
    losses = []
    for number, options in enumerate([{"threads": 1}, {"threads": 2}, {"accumulation": 2}]):
        values = masked(notes, **options)
        values["model"]["dropout"] = 0.0
        losses.append(train(values, out=tmp_path / str(number)).held_out["notes"].nats)
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-5)


def write_copies(folder: Path) -> Path:
    """Text of letters that stand four times in a row."""
    folder.mkdir()
    draw = random.Random(0)
    for number in range(40):
        letters = (draw.choice("abcdefgh") for _ in range(60))
        (folder / f"{number}.txt").write_text("".join(f"{4 * letter}\n" for letter in letters))
    return folder


def test_a_masked_encoder_learns_from_both_sides(tmp_path: Path) -> None:
    values = masked(write_copies(tmp_path / "copies"), steps=200, batch_size=16, evaluate_every=200)
    values["model"] |= {"d_model": 32, "n_layers": 2, "dropout": 0.0}
    values["data"]["objective"] = {"kind": "masked", "share": 0.1}
    values["training"] |= {"checkpoint_every": 200, "optimizer": {"lr": 0.006}, "baselines": True}
    run = train(values, out=tmp_path / "run")
    score, marginal = run.held_out["copies"], run.baselines["copies"].marginal
    assert marginal is not None
    assert score.accuracy is not None and score.accuracy > 0.75
    assert marginal.accuracy is not None and marginal.accuracy < 0.3
    assert score.loss < 0.5 * marginal.loss


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data.objective": "causal"}, r"data\.objective: causal predicts the next token, which an encoder would see"),
        ({"model.stack": "decoder"}, r"data\.objective: masked predicts a token from both sides, .* choose causal"),
    ],
)
def test_an_objective_for_another_stack_is_refused(notes: Path, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(masked(notes), overrides)
