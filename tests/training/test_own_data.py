"""Runs on people's own data: mixed sources, and instruction tuning of a model that is there."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
import zstandard

from sublayer.api import generate, load, train
from sublayer.cli import main
from sublayer.data.chat import PLAIN
from sublayer.model.loss import IGNORED

from .runs import WORDS, Notes, tree

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def sentences(seed: int, words: list[str], count: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(words, k=12)) for _ in range(count)]


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Any]:
    """Packed JSON lines in capitals, Parquet in small letters, and a validation of its own."""
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    web = [json.dumps({"text": text}) for text in sentences(0, [word.upper() for word in WORDS], 60)]
    packed = zstandard.ZstdCompressor().compress("".join(line + "\n" for line in web).encode())
    (tmp_path / "web.jsonl.zst").write_bytes(packed)
    parquet.write_table(arrow.table({"text": sentences(1, WORDS, 60)}), tmp_path / "books.parquet")
    own = [json.dumps({"body": text}) + "\n" for text in sentences(2, WORDS, 20)]
    (tmp_path / "own.jsonl").write_text("".join(own))
    return {
        "sources": [
            {"kind": "jsonl", "path": str(tmp_path / "web.jsonl.zst"), "weight": 3},
            {"kind": "parquet", "path": str(tmp_path / "books.parquet"), "weight": 1},
        ],
        "validation": [{"kind": "jsonl", "path": str(tmp_path / "own.jsonl"), "field": "body"}],
        "tokenizer": "bytes",
        "sequence_length": 16,
    }


def test_packed_json_lines_and_parquet_mixed_three_to_one(sources: dict[str, Any], tmp_path: Path) -> None:
    run = train(tree(tmp_path) | {"data": sources}, out=tmp_path / "run")
    assert set(run.held_out) == {"own"}
    assert set(run.corpus.describe()["web"]) == set(run.corpus.describe()["books"]) == {"training"}
    # Which source a row comes from shows in its letters.
    rows = run.corpus.batch(0, 0, 400).tokens_BT
    shouted = [run.tokenizer.decode(row.tolist()).isupper() for row in rows]
    assert 0.72 < sum(shouted) / 400 < 0.78


def test_what_was_passed_by_is_said(sources: dict[str, Any], tmp_path: Path) -> None:
    with (tmp_path / "own.jsonl").open("a") as file:
        file.write('nonsense\n{"body": 1}\nnonsense\n')
    sources["validation"][0]["damaged"] = "skip"
    notes = Notes()
    train(tree(tmp_path, steps=1) | {"data": sources}, out=tmp_path / "run", watcher=notes)
    own = tmp_path / "own.jsonl"
    assert notes.notes[0] == (
        "the jsonl source passed by 3 that are damaged: "
        f"not JSON (2, first at {own} line 21), a field 'body' that holds "
        f"no text (1, first at {own} line 22)."
    )


def chats(path: Path, count: int) -> Path:
    rows = [
        {"instruction": f"Say {word} {number}", "output": f"{word} {number}"}
        for number, word in enumerate((WORDS * 9)[:count])
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_only_answers_are_scored_and_the_template_goes_with_the_model(tmp_path: Path) -> None:
    data = {
        "sources": {"kind": "chat", "path": str(chats(tmp_path / "chat.jsonl", 60)), "domain": "talk"},
        "tokenizer": "bytes",
        "sequence_length": 64,
    }
    run = train(tree(tmp_path, model={"max_length": 64}) | {"data": data}, out=tmp_path / "run")
    targets = {
        run.tokenizer.decode(target for target in row.tolist() if target != IGNORED)
        for row in run.corpus.batch(0, 0, 8).targets_BT
    }
    assert targets <= {f"{word} {number}" for number, word in enumerate((WORDS * 9)[:60])}
    for directory in (tmp_path / "run", tmp_path / "run" / "best"):
        model, tokenizer = load(directory)
        assert tokenizer.chat_template == PLAIN
        question = [{"role": "user", "content": "Say when 0"}]
        assert generate(model, tokenizer, question, max_tokens=2).prompt == "user:\nSay when 0assistant:\n"


def test_pairs_are_trained_on_what_is_wanted(tmp_path: Path) -> None:
    rows = [{"de": f"nein {number}", "en": f"no {number}"} for number in range(80)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"kind": "pairs", "path": str(tmp_path / "pairs.jsonl"), "source_field": "de", "target_field": "en"}
    data = {"sources": source, "tokenizer": "bytes", "sequence_length": 32}
    run = train(tree(tmp_path) | {"data": data}, out=tmp_path / "run")
    batch = run.corpus.batch(0, 0, 8)
    for tokens, targets in zip(batch.tokens_BT, batch.targets_BT, strict=True):
        wanted = [run.tokenizer.decode(part) for part in _split(targets.tolist(), run.tokenizer.end_id)]
        asked = run.tokenizer.decode(tokens.tolist())
        assert wanted
        for text in wanted:
            assert f"nein {text.removeprefix('no ')}\n{text}" in asked


def _split(targets: list[int], end_id: int) -> list[list[int]]:
    """The targets of each document, up to its end token."""
    documents: list[list[int]] = [[]]
    for target in targets:
        if target == end_id:
            documents.append([])
        elif target != IGNORED:
            documents[-1].append(target)
    assert documents[-1] == []
    return documents[:-1]


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main(list(words))
    out, err = capsys.readouterr()
    assert left.value.code == 0, err
    return out


def test_chat_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    chats(tmp_path / "chat.jsonl", 60)
    data = {"sources": {"kind": "chat", "path": "chat.jsonl"}, "tokenizer": "bytes", "sequence_length": 64}
    config = tree(tmp_path, model={"max_length": 96}) | {"data": data}
    (tmp_path / "chat.yaml").write_text(yaml.safe_dump(config))
    out = said(capsys, "train", "chat.yaml", "--out", "run")
    assert "sublayer generate run --chat 'Say when 0'" in out
    answer = said(
        capsys, "generate", "run", "--chat", "Say when 0", "--system", "x", "--max-tokens", "3", "--seed", "1"
    )
    assert "Say" not in answer
    assert answer == said(
        capsys, "generate", "run", "--chat", "Say when 0", "--system", "x", "--max-tokens", "3", "--seed", "1"
    )

    # How text is drawn is the model's own matter, unless an option says otherwise.
    how = json.loads((tmp_path / "run" / "generation_config.json").read_text())
    (tmp_path / "run" / "generation_config.json").write_text(
        json.dumps(how | {"do_sample": False, "max_new_tokens": 9})
    )
    likeliest = said(capsys, "generate", "run", "Say ")
    assert likeliest == said(capsys, "generate", "run", "Say ", "--temperature", "0", "--max-tokens", "9")
    drawn = {said(capsys, "generate", "run", "Say ", "--temperature", "2", "--seed", str(seed)) for seed in range(3)}
    assert drawn != {likeliest}


@pytest.mark.slow
def test_a_small_model_tuned_on_conversations_answers_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recipe of docs/data.md: about two minutes on one core."""
    monkeypatch.chdir(tmp_path)
    for name in ("chat.jsonl", "instruct.yaml"):
        shutil.copy(EXAMPLES / name, tmp_path)
    said(capsys, "train", "training.steps=100", "training.evaluation_tokens=4096", "--out", "runs/first")
    said(capsys, "train", "instruct.yaml", "--out", "runs/chat")
    rows = [json.loads(line)["messages"] for line in (EXAMPLES / "chat.jsonl").read_text().splitlines()]
    assert len(rows) > 40
    model, tokenizer = load("runs/chat")
    for messages in rows:
        for number, message in enumerate(messages):
            if message["role"] == "assistant":
                completion = generate(model, tokenizer, messages[:number], temperature=0)
                assert (completion.text, completion.reason) == (message["content"], "end"), messages
    assert said(capsys, "generate", "runs/chat", "--chat", "What colour is the sky?", "--temperature", "0") == (
        "The sky is blue.\n"
    )
    french = ("--chat", "What colour is the sky?", "--system", "Answer in French.", "--temperature", "0")
    assert said(capsys, "generate", "runs/chat", *french) == "Le ciel est bleu.\n"
