"""Runs that start from the weights of a model that is there already."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sublayer.api import load, train
from sublayer.errors import CheckpointError, SublayerError
from sublayer.run import RunConfig, read_config

from .runs import Crash, CrashAt, assert_equal_runs, assert_equal_tensors, tree


@pytest.fixture(scope="module")
def trained(notes: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 steps."""
    directory = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUBLAYER_CACHE", str(cache))
        patch.setattr("sublayer.api.draw_curve", lambda *_: None)
        train(tree(notes, model={"dropout": 0.25}, optimizer={"kind": "adamw", "lr": 0.03}), out=directory)
    return directory


@pytest.fixture
def base(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "base"))


def started(notes: Path, base: Path, **training: Any) -> dict[str, Any]:
    """A config that leaves model and tokenizer to the model it starts from."""
    values = tree(notes, init_from=str(base), **training)
    del values["model"], values["data"]["tokenizer"]
    return values


def test_model_and_tokenizer_are_those_of_the_directory(notes: Path, base: Path, tmp_path: Path) -> None:
    run = train(started(notes, base, steps=1, optimizer={"kind": "adamw", "lr": 1e-12}), out=tmp_path / "run")
    model, tokenizer = load(base)
    assert run.config.model == model.config
    assert run.config.model.dropout == 0.25
    assert run.tokenizer.fingerprint() == tokenizer.fingerprint()
    for name, tensor in run.model.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name], atol=1e-9, rtol=0)
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["training"]["init_from"] == str(base)
    assert written["data"]["tokenizer"] == {"kind": "file", "path": str(base), "end": None}
    assert written["model"]["d_model"] == 16


def test_the_first_loss_is_where_the_other_run_ended(notes: Path, base: Path, tmp_path: Path) -> None:
    train(started(notes, base, steps=1), out=tmp_path / "run")
    train(tree(notes, steps=1), out=tmp_path / "anew")
    first, anew = (
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0])["loss"] for name in ("run", "anew")
    )
    assert first < anew - 0.1


def test_what_the_config_says_of_the_model_goes_over_it(notes: Path, base: Path) -> None:
    values = started(notes, base)
    values["model"] = {"dropout": 0.0, "attention": {"n_heads": 1}, "position": {"kind": "rope", "theta": 50.0}}
    model = read_config(values).model
    assert (model.dropout, model.d_model, model.n_layers) == (0.0, 16, 1)
    assert (model.attention.tree()["n_heads"], model.position.tree()["theta"]) == (1, 50.0)
    values["model"] = {"position": "alibi"}
    assert read_config(values).model.position.kind_name() == "alibi"
    values["model"] = {"position": "rope"}
    assert read_config(values).model.position == read_config(started(notes, base)).model.position


def test_the_default_presets_model_gives_way(base: Path) -> None:
    config = read_config(None, {"training.init_from": str(base), "data.sequence_length": 16, "model.dropout": 0.5})
    assert (config.model.d_model, config.model.dropout) == (16, 0.5)
    assert config.data.tokenizer.tree() == {"kind": "file", "path": str(base), "end": None}
    assert read_config(None, {"training.init_from": None}).model.d_model == 128


def test_a_config_made_in_python_leaves_out_what_it_leaves_out(notes: Path, base: Path, tmp_path: Path) -> None:
    values = started(notes, base, steps=1)
    config = RunConfig(data=values["data"], training=values["training"], device="cpu", dtype="float32")
    assert train(config, out=tmp_path / "run").config.model.d_model == 16


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"d_model": 32},
            r"has shape \[16, 16\] in .*base, and here it has shape \[32, 32\]; set model.d_model to 16",
        ),
        ({"n_layers": 2}, r"'blocks\.1\..*' is missing in .*base, and here it has shape .*set model.n_layers to 1"),
        ({"tied_embeddings": False}, r"is missing in .*; set model.tied_embeddings to true, or leave model out"),
        ({"feed_forward": "gelu"}, r"set model.feed_forward as it was, or leave model out"),
        ({"d_model": 32, "n_layers": 2}, r"set model.d_model to 16 \(and 1 more choice\)"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    model: dict[str, Any], message: str, notes: Path, base: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=rf"^training\.init_from: .*{message}") as raised:
        train(started(notes, base) | {"model": model}, out=tmp_path / "run")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("tokenizer", ["bpe", "file"])
def test_another_tokenizer_is_refused(tokenizer: str, notes: Path, base: Path, tmp_path: Path) -> None:
    values = started(notes, base)
    values["data"]["tokenizer"] = {"kind": "bpe", "vocab_size": 257}
    if tokenizer == "file":
        train(tree(notes, steps=1) | {"data": values["data"]}, out=tmp_path / "other")
        values["data"]["tokenizer"] = {"kind": "file", "path": str(tmp_path / "other")}
    with pytest.raises(CheckpointError, match=r"^training\.init_from: the tokenizer of .*base \(257 tokens\) is not"):
        train(values, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_same_tokenizer_by_another_name_is_taken(notes: Path, base: Path, tmp_path: Path) -> None:
    values = started(notes, base, steps=1)
    values["data"]["tokenizer"] = "bytes"
    assert train(values, out=tmp_path / "run").tokenizer.vocab_size == 257


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("gone", "there is no directory"),
        ("empty", "holds no config.json, so it is no model directory"),
        ("foreign", "model_type is 'llama', and only 'sublayer' can be loaded"),
        ("no weights", "there is no file .*model.safetensors"),
        ("cut", "model.safetensors is damaged"),
        ("no tokenizer", "there is no tokenizer at .*base"),
    ],
)
def test_what_is_no_model_is_one_sentence(damage: str, message: str, notes: Path, base: Path, tmp_path: Path) -> None:
    weights = base / "model.safetensors"
    match damage:
        case "gone" | "empty":
            shutil.rmtree(base)
            if damage == "empty":
                base.mkdir()
        case "foreign":
            (base / "config.json").write_text('{"model_type": "llama"}')
        case "no weights":
            weights.unlink()
        case "cut":
            weights.write_bytes(weights.read_bytes()[:-100])
        case "no tokenizer":
            (base / "tokenizer.json").unlink()
    with pytest.raises(SublayerError, match=message) as raised:
        train(started(notes, base), out=tmp_path / "run")
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_keeps_its_own_weights(notes: Path, base: Path, tmp_path: Path) -> None:
    train(started(notes, base), out=tmp_path / "whole")
    with pytest.raises(Crash):
        train(started(notes, base), out=tmp_path / "run", watcher=CrashAt(5))
    # What it started from has no part in it any more.
    (base / "model.safetensors").unlink()
    (base / "config.json").unlink()
    train(out=tmp_path / "run", resume=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "run")


def test_a_run_that_was_killed_before_its_first_state_starts_from_them_again(
    notes: Path, base: Path, tmp_path: Path
) -> None:
    with pytest.raises(Crash):
        train(started(notes, base), out=tmp_path / "run", watcher=CrashAt(1))
    resumed = train(out=tmp_path / "run", resume=True)
    whole = train(started(notes, base), out=tmp_path / "whole")
    assert_equal_tensors(whole.model.state_dict(), resumed.model.state_dict())


def test_a_run_is_not_resumed_from_elsewhere(notes: Path, base: Path, tmp_path: Path) -> None:
    train(started(notes, base), out=tmp_path / "run")
    with pytest.raises(
        CheckpointError, match=r"^training\.init_from is 'elsewhere', but the run in .* was started with"
    ):
        train(out=tmp_path / "run", resume=True, **{"training.init_from": "elsewhere", "training.steps": 8})
