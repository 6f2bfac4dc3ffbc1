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


def samples(objective: object, notes: Path) -> str:
    sources = {"kind": "text", "path": str(notes)}
    corpus = prepare(DataConfig(sources=sources, tokenizer="bytes", sequence_length=64, objective=objective))
    out = StringIO()
    show_samples(corpus, 0, 1, Console(file=out, width=400))
    return out.getvalue()


def test_rows_of_every_objective_are_shown_as_the_model_reads_them(tmp_path: Path) -> None:
    for name in ("first", "other"):
        (tmp_path / name).mkdir()
        for number in range(30):
            (tmp_path / name / f"{number}.txt").write_text(f"{name} house with {number} rooms and a garden\n" * 3)
    masked = samples({"kind": "masked", "replaced_by_mask": 1, "replaced_by_other": 0}, tmp_path / "first")
    hidden = masked.split("to be told: ")[1].split("\n")[0].split("', '")
    assert masked.count("⟦<mask>⟧") == len(hidden) == round(0.15 * 64)
    spans = samples("span_corruption", tmp_path / "first")
    read, written = spans.split("read:")[1].split("written:")
    for number in range(3):
        assert f"⟦<extra_id_{number}>⟧" in read
        assert f"⟦<extra_id_{number}>⟧" in written
    assert written.index("⟦<|endoftext|>⟧") < written.index("⟦<extra_id_0>⟧")
    sources = [{"kind": "text", "path": str(tmp_path / name)} for name in ("first", "other")]
    data = {"sources": sources, "tokenizer": "bytes", "sequence_length": 32}
    corpus = prepare(DataConfig(**data, objective={"kind": "classify", "label": "domain", "long": "pieces"}))
    out = StringIO()
    show_samples(corpus, 0, 8, Console(file=out, width=400))
    told = out.getvalue()
    assert told.count("class: first") + told.count("class: other") == 8
    assert "class: first" in told and "class: other" in told


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
