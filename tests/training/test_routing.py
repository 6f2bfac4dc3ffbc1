"""How experts are used: figures, warnings, and biases that follow the step's counts."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sublayer.api import train
from sublayer.measures.load import max_vio, sampling_floor
from sublayer.model import ModelConfig, Transformer
from sublayer.training import loop
from sublayer.training.routing import RoutingRecord, layer_figures

from .runs import Crash, CrashAt, Notes, assert_equal_runs, scalars, tree

LAYER = "layers.0.feed_forward"
EXPERTS = {"kind": "experts", "n_experts": 4}


def lines(directory: Path) -> list[dict[str, Any]]:
    every = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return [line for line in every if "routing" in line]


def biases(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if name.endswith("balance_bias")}


# ---------- figures


def test_figures_of_a_layer() -> None:
    told = {"tokens": 50, "load": [40, 30, 30, 0], "entropy": 25.0, "margin": 5.0, "dropped": 10}
    found = layer_figures(told)
    assert found == {
        "tokens": 50,
        "load": [0.4, 0.3, 0.3, 0.0],
        "max_vio": max_vio([40, 30, 30, 0]),
        "floor": sampling_floor(4, 2, 50),
        "dead": 1,
        "entropy": 0.5,
        "entropy_share": 0.5 / math.log(4),
        "margin": 0.1,
        "dropped": 0.1,
    }
    assert layer_figures({"tokens": 0, "load": [0, 0]})["dead"] == 2


def test_a_line_is_of_all_tokens_since_the_one_before(notes: Path, tmp_path: Path) -> None:
    feed_forward = EXPERTS | {"balance": ["loss_free", "z_loss"], "capacity": {"factor": 1.0}}
    config = tree(notes, model={"feed_forward": feed_forward}, logging={"every": 4, "tensorboard": True})
    train(config, out=tmp_path / "run")
    first, last = lines(tmp_path / "run")
    assert (first["step"], last["step"]) == (4, 6)
    assert first["routing"].keys() == {LAYER}
    one, two = first["routing"][LAYER], last["routing"][LAYER]
    assert (one["tokens"], two["tokens"]) == (4 * 4 * 16, 2 * 4 * 16)
    assert sum(one["load"]) == pytest.approx(1, abs=1e-5)
    assert 0 < one["dropped"] < 0.5
    assert 0 < one["entropy_share"] <= 1
    assert one["bias_change"] <= 4 * 0.001 + 1e-9
    assert two["bias_change"] <= 2 * 0.001 + 1e-9
    assert 0 < one["bias_range"] <= 8 * 0.001 + 1e-9
    shown = scalars(tmp_path / "run")
    assert shown[f"routing/{LAYER}/max_vio"] == [(4, pytest.approx(one["max_vio"])), (6, pytest.approx(two["max_vio"]))]
    assert {line["step"]: line["loss"] for line in (first, last)} == {
        line["step"]: pytest.approx(line["cross_entropy"] + line[f"{LAYER}.z_loss"]) for line in (first, last)
    }


def test_a_model_without_experts_has_no_such_figures(notes: Path, tmp_path: Path) -> None:
    run = train(tree(notes, steps=2), out=tmp_path / "run")
    assert lines(run.directory) == []


# ---------- biases


@pytest.mark.parametrize("division", [{"accumulation": 2}, {"threads": 2}, {"accumulation": 2, "threads": 2}])
def test_biases_follow_the_counts_of_the_whole_step(division: dict[str, int], notes: Path, tmp_path: Path) -> None:
    feed_forward = EXPERTS | {"balance": {"kind": "loss_free", "rate": 0.01}}
    config = tree(notes, model={"feed_forward": feed_forward}, optimizer={"kind": "adamw", "lr": 1e-5})
    whole = train(config, out=tmp_path / "whole", **{"training.threads": 1})
    divided = train(config, out=tmp_path / "divided", **{f"training.{key}": value for key, value in division.items()})
    before, after = biases(whole.model.state_dict()), biases(divided.model.state_dict())
    assert len(before) == 1
    for name, bias in before.items():
        assert bias.abs().max() > 0
        assert torch.equal(bias, after[name])


def test_a_step_that_is_skipped_changes_no_bias(notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(Transformer, "adjust", lambda _, counts: asked.append(counts))
    norm = torch.nn.utils.get_total_norm
    norms = iter([1.0, math.nan, 1.0])
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", lambda gradients: norm(gradients) * next(norms))
    train(tree(notes, model={"feed_forward": EXPERTS}, steps=3), out=tmp_path / "run")
    assert len(asked) == 2
    assert int(asked[0][f"{LAYER}.tokens"]) == 4 * 16


@pytest.mark.parametrize("step", [3, 5])
def test_a_resumed_run_has_the_same_biases_and_lines(step: int, notes: Path, tmp_path: Path) -> None:
    feed_forward = EXPERTS | {"balance": ["loss_free", {"kind": "load", "scope": "global_batch"}]}
    feed_forward |= {"router": {"kind": "noisy_top_k", "scoring": "sigmoid"}}
    config = tree(
        notes, model={"feed_forward": feed_forward}, accumulation=2, logging={"every": 3, "tensorboard": False}
    )
    train(config, out=tmp_path / "whole")
    with pytest.raises(Crash):
        train(config, out=tmp_path / "broken", watcher=CrashAt(step))
    train(None, out=tmp_path / "broken", resume=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "broken")
    last = biases(load_file(tmp_path / "broken" / "model.safetensors"))
    assert any(bias.abs().max() > 0 for bias in last.values())
    assert biases(load_file(tmp_path / "broken" / "best" / "model.safetensors")).keys() == last.keys()


# ---------- warnings


def record(notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bias: float, **change: Any) -> list[str]:
    """What a person is told of the experts in a run whose first expert begins with a bias."""

    def planted(config: ModelConfig, seed: int) -> Transformer:
        model = Transformer(config, seed)
        with torch.no_grad():
            model.blocks[0].feed_forward.router.bias[0] = bias
        return model

    monkeypatch.setattr(loop, "Transformer", planted)
    feed_forward = EXPERTS | {"router": {"kind": "top_k", "bias": True}} | change
    config = tree(
        notes,
        model={"feed_forward": feed_forward},
        steps=120,
        batch_size=8,
        threads=1,
        evaluate_every=120,
        checkpoint_every=120,
        logging={"every": 10, "tensorboard": False},
    )
    told = Notes()
    train(config, out=tmp_path / "run", watcher=told)
    return [note for note in told.notes if "feed_forward" in note]


def test_a_collapse_is_told_once_with_what_to_change(
    notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = record(notes, tmp_path, monkeypatch, 9.0, balance="none", top_k=1)
    assert [note for note in told if "collapses" in note] == told[:1]
    assert told[0].startswith(f"step 50: {LAYER}: routing collapses: expert 0 of 4 got ")
    assert told[0].endswith("set feed_forward.balance to load or loss_free.")
    assert len(told) == len(set(told)) <= 2


def test_a_router_that_is_certain_is_told(notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = record(notes, tmp_path, monkeypatch, 30.0, balance="none", capacity={"factor": 1.25})
    assert any("certain of nearly every token" in note and "add z_loss" in note for note in told)
    assert any("was dropped" in note and "capacity.factor (now 1.25)" in note for note in told)


def test_a_healthy_run_is_left_in_peace(notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert record(notes, tmp_path, monkeypatch, 0.0) == []


class Layer:
    """A record of a model with one layer of experts, fed by hand."""

    def __init__(self, **feed_forward: Any) -> None:
        config = ModelConfig.parse(
            {"vocab_size": 8, "d_model": 8, "n_layers": 1, "max_length": 8, "attention": {"n_heads": 1}}
            | {"feed_forward": EXPERTS | feed_forward}
        )
        self.model = Transformer(config)
        self.record = RoutingRecord(self.model, {})

    def steps(self, load: list[int], n: int = 50, **more: float) -> list[str]:
        """The notes behind n steps alike, with a line each."""
        told = []
        counts = {"load": load, "tokens": sum(load) // 2, **more}
        for _ in range(n):
            self.record.add({f"{LAYER}.{name}": torch.tensor(value) for name, value in counts.items()})
            assert self.record.line().keys() == {LAYER}
            told += self.record.notes()
            # As at a resume.
            self.record = RoutingRecord(self.model, json.loads(json.dumps(self.record.state())))
        return told


def test_it_is_told_again_when_it_had_been_right() -> None:
    layer = Layer()
    starved, even = [20, 22, 18, 0], [15, 15, 15, 15]
    assert layer.steps(starved) == []  # it may be the beginning
    told = layer.steps(starved, 100)
    assert told == [
        f"{LAYER}: expert 3 of 4 got less than 1% of an even share of the last 1,500 tokens; raise the weight of load "
        "in feed_forward.balance (now 0.01)."
    ]
    assert layer.steps(even) == []
    assert len(layer.steps(starved, 100)) == 1


def test_few_tokens_prove_nothing() -> None:
    layer = Layer(balance="loss_free")
    assert layer.steps([1, 1, 2, 0], 90) == []  # 90 an expert
    told = layer.steps([1, 1, 2, 0], 110)
    assert len(told) == 1
    assert told[0].endswith("raise the rate of loss_free in feed_forward.balance (now 0.001), or add load.")


@pytest.mark.parametrize(
    ("change", "more", "expected"),
    [
        ({"balance": ["load", "z_loss"]}, {"entropy": 0.1}, "raise the weight of z_loss"),
        ({"capacity": {"factor": 0.5}}, {"dropped": 42}, None),  # half of it cannot but be dropped
        ({"capacity": {"factor": 0.5}}, {"dropped": 50}, "dropped"),
        ({"router": "hash"}, {}, None),
    ],
)
def test_what_is_asked_for_is_no_fault(change: dict[str, Any], more: dict[str, float], expected: str | None) -> None:
    told = Layer(**change).steps([15, 15, 15, 15], 100, **more)
    assert len(told) == (0 if expected is None else 1)
    assert expected is None or expected in told[0]
