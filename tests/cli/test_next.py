"""The command that a run's summary names to ask the model is one that works."""

import json
import shlex
from pathlib import Path

import pytest

from tests.cli.test_verbs import run

SMALL = [
    "model.d_model=16",
    "model.n_layers=1",
    "model.attention.n_heads=2",
    "data.tokenizer=bytes",
    "data.sequence_length=32",
    "training.steps=2",
    "training.batch_size=2",
    "training.baselines=false",
]


@pytest.mark.parametrize(
    ("stack", "objective", "named"),
    [
        ("decoder", "causal", "sublayer generate "),
        ("encoder", "masked", "sublayer fill "),
        ("encoder_decoder", "span_corruption", "sublayer generate "),
        ("encoder", "{kind: classify, label: domain, classes: [notes, lists]}", "sublayer classify "),
    ],
)
def test_the_next_command_works(
    stack: str,
    objective: str,
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    for domain in ("notes", "lists"):
        (tmp_path / domain).mkdir()
        for number in range(30):
            (tmp_path / domain / f"{number}.md").write_text(f"{domain} of {number} things, one by one. " * 4)
    sources = "[{kind: text, path: notes, domain: notes}, {kind: text, path: lists, domain: lists}]"
    head = ["model.head=classes"] if "classify" in objective else []
    told = run(
        capsys,
        "train",
        *SMALL,
        *head,
        f"model.stack={stack}",
        f"data.objective={objective}",
        f"data.sources={sources}",
        "data.validation_share=0.3",
        "--out",
        "runs/a",
    )
    commands = [line.strip() for line in told.splitlines() if line.strip().startswith(named)]
    assert len(commands) == 1
    assert run(capsys, *shlex.split(commands[0])[1:])


def test_a_run_with_experts_names_the_report_of_its_routing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "notes").mkdir()
    for number in range(30):
        (tmp_path / "notes" / f"{number}.md").write_text(f"about {number} things, one by one. " * 4)
    own = ["data.sources=[{kind: text, path: notes}]", "model.feed_forward=experts"]
    told = run(capsys, "train", *SMALL, *own, "--out", "runs/a")
    assert "experts over the last " in told
    (command,) = (line.strip() for line in told.splitlines() if line.strip().startswith("sublayer routing "))
    assert "pictures: runs/a/routing.html" in run(capsys, *shlex.split(command)[1:])


def test_a_run_whose_sample_does_not_fit_is_told_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "notes").mkdir()
    for number in range(30):
        (tmp_path / "notes" / f"{number}.md").write_text(f"about {number} things, one by one. " * 4)
    sources = "data.sources=[{kind: text, path: notes}]"
    short = ["model.position=learned", "model.max_length=8", "data.sequence_length=8"]
    told = run(capsys, "train", *SMALL, *short, sources, "--out", "runs/a")
    assert "no sample of notes: the prompt has " in told
    assert "sublayer train --resume" in told


def test_a_classifier_of_two_texts_is_asked_of_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    rows = [{"text": f"one {n}", "other": f"two {n % 7}", "label": "ab"[n % 2]} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = "data.sources=[{kind: labelled, path: rows.jsonl, second_field: other}]"
    kinds = ["model.stack=encoder", "model.head=classes", "data.objective=classify", "data.validation_share=0.3"]
    told = run(capsys, "train", *SMALL, *kinds, sources, "--out", "runs/a")
    (command,) = (line.strip() for line in told.splitlines() if line.strip().startswith("sublayer classify "))
    assert " --second " in command
    assert "second text" in run(capsys, *shlex.split(command)[1:])
