"""`sublayer data`."""

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from sublayer.cli import main
from sublayer.cli.figures import show_samples
from sublayer.data import DataConfig, prepare


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    path = tmp_path / "chat.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"What is {n}?"}, {"role": "assistant", "content": f"It is {n}."}]}
        for n in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[3]]) + "broken\n")
    return path


def run(words: list[str]) -> int:
    with pytest.raises(SystemExit) as left:
        main(words)
    return int(left.value.code or 0)


def options(chat: Path) -> list[str]:
    source = f"[{{kind: chat, path: {chat}, damaged: skip}}]"
    return [f"data.sources={source}", "data.tokenizer=bytes", "data.sequence_length=64", "training.steps=100"]


def test_what_is_told_of_a_corpus(chat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", *options(chat), "--samples", "2"]) == 0
    told = capsys.readouterr()
    assert "reading" in told.err
    for words in (
        "bytes/token",
        "tokens a document: chat",
        "epochs in 100 steps",
        "documents in segments",
        "come again in the training: 1 (",
        "chat: chat.jsonl:41 = chat.jsonl:4",
        "passed by in source 0 (chat): 1 × not JSON, first",
        "row 1",
    ):
        assert words in told.out, words
    assert "‹⟦<|endoftext|>⟧user:\nWhat is " in told.out
    assert "⟦<|endoftext|>⟧assistant:\n›It is " in told.out


def test_json_is_one_object_alone(chat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", *options(chat), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["sources"][0]["epochs"] > 4
    assert told["duplicates"]["documents"] == 1
    assert any("is read" in warning for warning in told["warnings"])
    assert sum(told["lengths"][0]["documents"]) == sum(side["documents"] for side in told["sides"]) == 41


def test_training_finds_what_was_made_ready(chat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", *options(chat), "--samples", "0"]) == 0
    capsys.readouterr()
    small = ["training.steps=2", "training.batch_size=2", "model.d_model=16", "training.baselines=false"]
    assert run(["train", *options(chat), *small, "--out", str(tmp_path / "run")]) == 0
    told = capsys.readouterr().out
    assert "tokenizing" not in told
    assert "reads chat" in told


def test_documents_alternate_in_colour(chat: Path) -> None:
    sources = {"kind": "chat", "path": str(chat), "damaged": "skip"}
    corpus = prepare(DataConfig(sources=sources, tokenizer="bytes", sequence_length=128))
    out = StringIO()
    show_samples(corpus, 0, 2, Console(file=out, force_terminal=True, color_system="standard", width=200))
    shown = out.getvalue()
    assert "\x1b[7;36m<|endoftext|>" in shown  # inverse cyan
    assert "\x1b[2;36m" in shown  # dim cyan: not scored
    assert "\x1b[36mIt is" in shown
    assert "\x1b[33mIt is" in shown  # the document beside it
    assert "‹" not in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.yaml", "b.yaml"], "'b.yaml' is one config too many"),
        (["a.yaml", "--preset", "default"], "--preset: give either"),
        (["data.sources=[{kind: jsonl, path: none.jsonl}]"], "none.jsonl"),
    ],
)
def test_what_is_wrong_is_one_sentence(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", *words]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.strip().count("\n") == 0
