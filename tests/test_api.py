"""Train, load and generate from Python, with a part of one's own too."""

import json
from pathlib import Path

import pytest
import torch

import sublayer as sl
from sublayer.errors import CheckpointError
from sublayer.registry import Registry
from tests.training.conftest import cache, no_curve, notes, own_cache
from tests.training.runs import tree

__all__ = ["cache", "no_curve", "notes", "own_cache"]

PLUGIN = Path(__file__).parents[1] / "docs" / "examples" / "my_part.py"
"""The part of the documentation."""


def test_the_whole_way(notes: Path, tmp_path: Path) -> None:
    run = sl.train(tree(notes), out=tmp_path / "run", **{"training.steps": 8, "training.baselines": True})
    assert run.config.training.steps == 8
    assert run.config.model.vocab_size == 257
    assert run.held_out.keys() == run.baselines.keys() == {"notes"}
    assert run.directory == tmp_path / "run"
    assert {"data", "forward", "backward", "update", "evaluation", "saving", "figures"} == set(run.seconds)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["held_out"]["notes"]["loss"] == run.held_out["notes"].loss
    assert summary["baselines"]["notes"]["bigram"]["loss"] == run.baselines["notes"].bigram.loss
    assert summary["baselines"]["notes"]["lzma"]["alone"] == run.baselines["notes"].lzma.alone

    model, tokenizer = sl.load(tmp_path / "run")
    assert not run.model.training
    tokens = torch.tensor([tokenizer.encode("in the course of")])
    assert torch.equal(model(tokens).logits, run.model(tokens).logits)
    first = sl.generate(model, tokenizer, "in the ", max_tokens=8, seed=3)
    again = sl.generate(model, tokenizer, "in the ", max_tokens=8, seed=3)
    assert first == again
    assert first.prompt == "in the "
    assert len(sl.generate(model, tokenizer, ["a", "bcd"], max_tokens=2)) == 2
    assert sl.generate(model.pack(), tokenizer, "in the ", max_tokens=8, temperature=0).text
    half, _ = sl.load(tmp_path / "run", dtype="bfloat16")
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert sl.generate(half.pack(), tokenizer, ["in the ", "of"], max_tokens=8, temperature=0)[1].text


def test_the_best_weights_are_a_model_directory_too(notes: Path, tmp_path: Path) -> None:
    sl.train(tree(notes), out=tmp_path / "run")
    model, tokenizer = sl.load(tmp_path / "run" / "best")
    assert model.config.vocab_size == tokenizer.vocab_size == 257


def test_a_part_of_one_s_own_from_config_to_text(notes: Path, tmp_path: Path, registries: None) -> None:
    config = tree(notes, model={"position": "root_decay"}) | {"plugins": [str(PLUGIN)]}
    run = sl.train(config, out=tmp_path / "run")
    assert run.config.model.position.kind == "root_decay"
    model, tokenizer = sl.load(tmp_path / "run")
    assert sl.generate(model, tokenizer, "in the ", max_tokens=4, seed=0).text is not None
    again = sl.train(tmp_path / "run" / "config.yaml", out=tmp_path / "again")
    for name, value in run.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value)

    # Where the plug-in is not known, the model is refused in one sentence.
    del Registry.families["position"]._parts["root_decay"]
    with pytest.raises(CheckpointError) as raised:
        sl.load(tmp_path / "run")
    message = str(raised.value)
    assert "config.json: position: 'root_decay' is not a position; " in message
    assert "\n" not in message


def test_a_config_may_be_a_file_a_mapping_or_an_object(notes: Path, tmp_path: Path) -> None:
    from sublayer.run import read_config, write_config

    values = tree(notes, steps=1)
    config = read_config(values)
    write_config(tmp_path / "config.yaml", config)
    runs = [sl.train(each, out=tmp_path / f"{n}") for n, each in enumerate((values, config, tmp_path / "config.yaml"))]
    assert runs[0].config == runs[1].config == runs[2].config
    assert values == tree(notes, steps=1)


def test_names_are_there_and_others_are_not() -> None:
    for name in sl.__all__:
        assert getattr(sl, name) is not None
    assert set(dir(sl)) == set(sl.__all__)
    with pytest.raises(AttributeError, match="module 'sublayer' has no attribute 'trian'"):
        _ = sl.trian


def test_a_run_without_a_model_yet_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("version: 1\n")
    with pytest.raises(CheckpointError, match=r"has saved no model yet; go on with: sublayer train --resume --out"):
        sl.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"there is no directory"):
        sl.load(tmp_path / "nowhere")
