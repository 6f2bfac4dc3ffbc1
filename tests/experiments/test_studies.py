"""The studies of experts run from end to end when made small, go on where they stopped, and read without training."""

import json
import statistics
from pathlib import Path

import pytest
from experiments.experts.__main__ import STUDIES, main
from experiments.experts.bias import path

SMALL = {
    "model.d_model": 16,
    "data.tokenizer": "bytes",
    "data.validation_share": 0.5,
    "data.sequence_length": 32,
    "training.steps": 4,
    "training.batch_size": 4,
    "training.evaluate_every": 1,
    "training.evaluation_tokens": 200,
    "training.checkpoint_every": 2,
    "training.logging.every": 1,
}
TRAINED = [name for name, study in STUDIES.items() if study.seeds]


def call(out: Path, study: str, *words: str, **changes: object) -> int:
    return main([study, "--out", str(out), *words, *(f"{key}={value}" for key, value in {**SMALL, **changes}.items())])


def test_a_bias_balances_a_router_that_does_not_learn() -> None:
    """As in Wang et al. 2024: soon at a rate of 1e-3, and to what chance gives."""
    slow, usual = (path("sigmoid", rate, steps=250) for rate in (1e-4, 1e-3))
    assert slow[0] == usual[0] > 1.0
    assert usual[99] < 0.3 < 1.0 < slow[99]
    assert statistics.fmean(usual[-100:]) < 0.138  # the sampling floor


@pytest.mark.slow  # each of four processes imports torch
def test_the_growth_of_experts(library: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path / "out", "growth") == 0
    told = json.loads((tmp_path / "out" / "growth.json").read_text())
    flops = [one["flops"] for one in told["grown"]]
    assert flops == sorted(flops) and flops[-1] < 1.2 * told["dense"]["flops"]
    assert told["grown"][-1]["total"] > 20 * told["dense"]["total"]
    assert all(0.5 < one["bytes"] / one["formula"] < 1.5 for one in told["measured"])
    assert "| 128 | 2 |" in capsys.readouterr().out
    before = (tmp_path / "out" / "growth.svg").read_text()
    assert call(tmp_path / "out", "growth", "--report") == 0
    assert (tmp_path / "out" / "growth.svg").read_text() == before


def test_what_is_wrong_is_said(library: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["balance", "--seeds", "0"])
    assert left.value.code == 2
    with pytest.raises(SystemExit) as left:
        main(["balance", "nonsense"])
    assert left.value.code == 2
    assert call(tmp_path, "balance", **{"model.feed_forward.top_k": 9}) == 2
    assert "top_k (9) is more than n_experts (8)" in capsys.readouterr().err


@pytest.mark.slow
def test_every_study_runs(library: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    for study in TRAINED:
        assert call(out, study, "--seeds", "2") == 0
    told = capsys.readouterr()
    assert "not trained yet" not in told.out
    trained = {run: run.stat().st_mtime_ns for run in out.glob("*/seed-*/summary.json")}
    assert len(trained) > 60
    for study in TRAINED:
        files = [out / f"{study}.json", out / f"{study}.svg"]
        before = [file.read_text() for file in files]
        assert call(out, study, "--seeds", "2", "--report") == 0
        assert [file.read_text() for file in files] == before, study
    assert capsys.readouterr().err == ""
    assert {run: run.stat().st_mtime_ns for run in out.glob("*/seed-*/summary.json")} == trained
    # Other changes would not be of these runs.
    assert call(out, "balance", "--seeds", "2", **{"training.steps": 5}) == 2
    assert "was trained with another config" in capsys.readouterr().err


@pytest.mark.slow
def test_it_goes_on_where_it_stopped(library: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert call(out, "dense", "--seeds", "1", "--report") == 0
    assert "not trained yet: dense-equal-total/seed-0, dense/seed-0, experts-32" in capsys.readouterr().out
    assert call(out, "dense", "--seeds", "1") == 0
    whole = json.loads((out / "dense.json").read_text())
    run = out / "experts-8" / "seed-0"
    (run / "summary.json").unlink()  # as if it had been killed behind its last checkpoint
    weights = (run / "model.safetensors").read_bytes()
    assert call(out, "dense", "--seeds", "1") == 0
    assert (run / "model.safetensors").read_bytes() == weights
    again = json.loads((out / "dense.json").read_text())
    assert again["models"]["experts-8"]["losses"] == whole["models"]["experts-8"]["losses"]
