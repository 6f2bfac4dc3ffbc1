"""Runs of other objectives than the next token: they learn, their figures are told, and they go on bit for bit."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from sublayer.api import load, train
from sublayer.errors import CheckpointError, ConfigError
from sublayer.measures.held_out import inputs_of
from sublayer.model.head import ClassHeadConfig
from sublayer.run import read_config

from .runs import Crash, CrashAt, Notes, assert_equal_runs, tree


def masked(notes: Path, **training: Any) -> dict[str, Any]:
    values = tree(notes, model={"stack": "encoder", "dropout": 0.1}, **training)
    values["data"]["objective"] = "masked"
    return values


def spans(notes: Path, **training: Any) -> dict[str, Any]:
    values = tree(notes, model={"stack": "encoder_decoder", "dropout": 0.1}, **training)
    values["data"] |= {"objective": "span_corruption", "sequence_length": 32}
    return values


def pairs(folder: Path, **training: Any) -> dict[str, Any]:
    """Words to be written backwards."""
    folder.mkdir(exist_ok=True)
    draw = random.Random(0)
    words = ("".join(draw.choices("abcdef", k=draw.randint(1, 5))) for _ in range(1500))
    rows = [{"source": word, "target": word[::-1]} for word in dict.fromkeys(words)]
    (folder / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = tree(folder, model={"stack": "encoder_decoder"}, **training)
    values["data"] |= {"sources": {"kind": "pairs", "path": str(folder)}, "objective": "seq2seq"}
    return values


def labelled(folder: Path, **training: Any) -> dict[str, Any]:
    """Lines of letters, of the class of the letter that comes most often."""
    folder.mkdir(exist_ok=True)
    draw = random.Random(0)
    rows = []
    for number in range(400):
        label = "abc"[number % 3]
        letters = [label] * 6 + draw.choices("abcdef", k=4)
        rows.append({"text": "".join(draw.sample(letters, k=10)), "label": label})
    (folder / "lines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = tree(folder, model={"stack": "encoder", "head": "classes"}, **training)
    values["data"] |= {"sources": {"kind": "labelled", "path": str(folder)}, "objective": "classify"}
    return values


FOLDERS = {pairs: "words", labelled: "lines"}
"""Objectives with data of their own."""


@pytest.mark.parametrize(("objective", "step"), [(masked, 3), (masked, 5), (spans, 3), (pairs, 5), (labelled, 5)])
def test_a_run_goes_on_bit_for_bit(notes: Path, tmp_path: Path, objective: Any, step: int) -> None:
    values = objective(tmp_path / FOLDERS[objective] if objective in FOLDERS else notes)
    train(values, out=tmp_path / "whole")
    with pytest.raises(Crash):
        train(values, out=tmp_path / "broken", watcher=CrashAt(step))
    train(out=tmp_path / "broken", resume=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.parametrize("objective", [masked, spans, pairs, labelled])
def test_threads_and_micro_batches_change_nothing_but_rounding(notes: Path, tmp_path: Path, objective: Any) -> None:
    losses = []
    for number, options in enumerate([{"threads": 1}, {"threads": 2}, {"accumulation": 2}]):
        values = objective(tmp_path / FOLDERS[objective] if objective in FOLDERS else notes, **options)
        values["model"]["dropout"] = 0.0
        (score,) = train(values, out=tmp_path / str(number)).held_out.values()
        losses.append(score.nats)
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-5)


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


def test_an_encoder_decoder_learns_to_write_backwards(tmp_path: Path) -> None:
    values = pairs(tmp_path / "words", steps=120, batch_size=16, evaluate_every=120, checkpoint_every=120)
    values["model"] |= {"d_model": 32, "attention": {"n_heads": 2}}
    values["data"] |= {"sequence_length": 48, "objective": {"kind": "seq2seq", "target_length": 48}}
    values["training"] |= {"optimizer": {"lr": 0.006}, "baselines": True, "evaluation_tokens": None}
    run = train(values, out=tmp_path / "run")
    score, marginal = run.held_out["words"], run.baselines["words"].marginal
    assert marginal is not None
    assert score.loss < 0.5 * marginal.loss
    # A bit a byte of what was to be written, the end tokens' share in it.
    assert score.bits_per_byte is not None and score.bytes == sum(map(len, run.corpus.validation_text("words", True)))


@pytest.mark.parametrize("objective", [spans, pairs])
def test_documents_packed_into_a_row_are_as_if_each_stood_alone(notes: Path, tmp_path: Path, objective: Any) -> None:
    values = objective(tmp_path / "words" if objective is pairs else write_copies(tmp_path / "copies"))
    values["data"] |= {"sequence_length": 400 if objective is spans else 24}
    values["model"]["max_length"] = 512
    run = train(values, out=tmp_path / "run", **{"training.steps": 2})
    batch = run.corpus.batch(0, 0, 6)
    source = batch.source
    assert source is not None and source.document_BS is not None and batch.document_BT is not None
    several = 0
    with torch.no_grad():
        together = run.model(**inputs_of(batch, torch.device("cpu"))).logits
        for row in range(6):
            asked = batch.targets_BT[row] >= 0
            documents = batch.document_BT[row][asked].unique().tolist()
            several += len(documents) > 1
            for document in documents:
                there, read = (batch.document_BT[row] == document) & asked, source.document_BS[row] == document
                alone = run.model(batch.tokens_BT[row][there][None], source=source.tokens_BS[row][read][None]).logits
                torch.testing.assert_close(together[row][there], alone[0], rtol=1e-4, atol=1e-5)
    assert several >= 2


def test_the_figures_of_span_corruption(notes: Path, tmp_path: Path) -> None:
    run = train(spans(notes, baselines=True), out=tmp_path / "run")
    assert set(run.held_out["notes"].figures()) == {"loss"}
    assert run.baselines["notes"].marginal is not None
    model, tokenizer = load(tmp_path / "run")
    assert model.config.stack == "encoder_decoder"
    assert tokenizer.name(tokenizer.vocab_size - 1) == "<extra_id_99>"


@pytest.mark.parametrize(("stack", "pooling"), [("encoder", "mean"), ("encoder", "first"), ("decoder", "last")])
def test_a_classifier_learns_and_names_its_classes(tmp_path: Path, stack: str, pooling: str) -> None:
    values = labelled(tmp_path / "lines", steps=80, batch_size=16, evaluate_every=80, checkpoint_every=80)
    values["model"] |= {"stack": stack, "head": {"kind": "classes", "pooling": pooling, "hidden": True}}
    values["training"] |= {"optimizer": {"lr": 0.01}, "baselines": True}
    run = train(values, out=tmp_path / "run")
    score, marginal = run.held_out["lines"], run.baselines["lines"].marginal
    assert set(score.figures()) == {"loss", "accuracy"}
    assert score.tokens == sum(len(batch.targets_BT) for batch in run.corpus.validation("lines", 4))
    assert marginal is not None and marginal.accuracy is not None and marginal.accuracy < 0.6
    assert score.accuracy is not None and score.accuracy > 0.8
    model, _ = load(tmp_path / "run" / "best")
    assert model.config.head == ClassHeadConfig(n_classes=3, classes=("a", "b", "c"), pooling=pooling, hidden=True)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["id2label"] == {"0": "a", "1": "b", "2": "c"}
    # The config that the run leaves repeats it.
    again = train(tmp_path / "run" / "config.yaml", out=tmp_path / "again")
    assert again.held_out == run.held_out


def test_a_classifier_starts_from_a_masked_encoder(notes: Path, tmp_path: Path) -> None:
    before = train(masked(notes), out=tmp_path / "before")
    values = labelled(tmp_path / "lines", steps=1, init_from=str(tmp_path / "before"), optimizer={"lr": 1e-9})
    values["model"] = {"head": "classes"}
    del values["data"]["tokenizer"]
    watcher = Notes()
    run = train(values, out=tmp_path / "run", watcher=watcher)
    (told,) = (note for note in watcher.notes if "starting from" in note)
    assert "but for the head, which is of another kind: its 51 numbers are new." in told
    assert run.tokenizer.same_vocabulary(before.tokenizer)
    theirs = before.model.state_dict()
    for name, tensor in run.model.state_dict().items():
        if not name.startswith("head."):
            torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-6)
    assert run.model.config.head.by_token is False
    # And a model of the same head is gone on with as ever.
    again = train(
        values | {"training": values["training"] | {"init_from": str(tmp_path / "run")}}, out=tmp_path / "more"
    )
    torch.testing.assert_close(again.model.state_dict(), run.model.state_dict(), rtol=0, atol=1e-6)
    with pytest.raises(CheckpointError, match=r"training.init_from: '.*' has shape .*; set model.d_model to 16"):
        train(values, out=tmp_path / "wider", **{"model.d_model": 32})


@pytest.mark.parametrize("head", [None, "classes", {"kind": "classes", "pooling": "first"}])
def test_a_classifier_starts_from_one_of_other_classes(tmp_path: Path, head: Any) -> None:
    before = train(labelled(tmp_path / "lines", steps=1), out=tmp_path / "before")
    values = labelled(tmp_path / "lines", steps=1, init_from=str(tmp_path / "before"), optimizer={"lr": 1e-9})
    lines = tmp_path / "lines" / "lines.jsonl"
    lines.write_text(lines.read_text().replace('"label": "c"', '"label": "a"'))
    values["model"] = {} if head is None else {"head": head}
    del values["data"]["tokenizer"]
    watcher = Notes()
    run = train(values, out=tmp_path / "run", watcher=watcher)
    assert run.model.config.head.classes == ("a", "b")
    (told,) = (note for note in watcher.notes if "starting from" in note)
    assert "but for the head, which is for other classes: its 34 numbers are new." in told
    ours, theirs = run.model.state_dict(), before.model.state_dict()
    for name in ours:
        if not name.startswith("head."):
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-6)
    assert not torch.allclose(ours["head.output.weight"], theirs["head.output.weight"][:2], atol=1e-4)


def test_classes_that_the_model_does_not_have_are_refused(tmp_path: Path) -> None:
    values = labelled(tmp_path / "lines")
    values["model"]["head"] = {"kind": "classes", "classes": ["a", "b"]}
    with pytest.raises(ConfigError, match=r"model.head.classes: they are a, b, but those of the data are a, b, c;"):
        train(values, out=tmp_path / "run")
    values["model"]["head"] = {"kind": "classes", "n_classes": 2}
    with pytest.raises(ConfigError, match=r"model.head.n_classes: is 2, but the data has 3 classes; leave it out"):
        train(values, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data.objective": "causal"}, r"data\.objective: causal predicts the next token, which an encoder would see"),
        ({"model.stack": "encoder_decoder"}, r"masked gives an encoder_decoder nothing to write; choose seq2seq or"),
        ({"data.objective": "span_corruption"}, r"span_corruption needs an encoder and a decoder, and this is one enc"),
        (
            {
                "data.objective": {"kind": "span_corruption", "target_length": 64},
                "model.position": "learned",
                "model.stack": "encoder_decoder",
            },
            r"data\.objective\.target_length \(64\) is longer than the model's posit",
        ),
        (
            {"data.objective": {"kind": "classify", "label": "domain"}, "data.sources": "embedded"},
            r"model\.head: classify tells a class for each text",
        ),
        (
            {"model.head": "classes"},
            r"model\.head: masked predicts tokens, and a head over classes has none; set",
        ),
        (
            {
                "data.objective": {"kind": "classify", "label": "domain"},
                "data.sources": "embedded",
                "model.stack": "decoder",
                "model.head": {"kind": "classes", "pooling": "first"},
            },
            r"model\.head: pooling: the first token of a decoder has",
        ),
        ({"model.stack": "decoder"}, r"data\.objective: masked predicts a token from both sides, .* choose causal"),
    ],
)
def test_an_objective_for_another_stack_is_refused(notes: Path, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(masked(notes), overrides)
