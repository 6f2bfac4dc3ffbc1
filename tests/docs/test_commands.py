"""Every command and every piece of Python in the README and the docs runs, made small."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import yaml
import zstandard

from sublayer.cli import main

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "docs/quickstart.md",
    "docs/configuration.md",
    "docs/data.md",
    "docs/objectives.md",
    "docs/generation.md",
    "docs/check.md",
    "docs/experts.md",
    "docs/routing.md",
    "docs/parts.md",
    "docs/architecture.md",
)

SMALL = {
    "training.steps": "4",
    "training.batch_size": "2",
    "training.checkpoint_every": "2",
    "data.sequence_length": "32",
    "data.tokenizer": "bytes",
    "model.d_model": "16",
    "model.attention.n_heads": "2",
}
"""What is put behind each `sublayer train` that starts a run."""

NOTES = "The house has rooms and floors. A room reads only from lower floors, and a file holds one concept.\n" * 40


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """The fenced blocks of a language: their page and text."""
    for page in PAGES:
        for match in re.finditer(
            rf"```{language}[^\n]*\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL
        ):
            yield page, match[1]


def commands() -> Iterator[list[str]]:
    """The `sublayer` commands of all pages as words, in order."""
    for _, text in blocks("bash"):
        for line in text.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if words[:1] == ["sublayer"]:
                    yield words[1:]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with what the docs suppose: a config of one's own, notes, a plug-in, and a run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "notes").mkdir()
    for number in range(3):
        (tmp_path / "notes" / f"{number}.md").write_text(NOTES)
    shutil.copy(ROOT / "docs/examples/my_part.py", tmp_path)
    (tmp_path / "my.yaml").write_text(small_config())
    main_ok(["train", "my.yaml", "--out", "runs/first"])
    own_data(tmp_path)
    main_ok(["train", "instruct.yaml", "--out", "runs/chat"])
    return tmp_path


def own_data(folder: Path) -> None:
    """The data that docs/data.md supposes, and its configs, made small."""
    rows = [{"text": f"{number} {NOTES[:200]}"} for number in range(20)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "web.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(lines.encode()))
    (folder / "validation.jsonl").write_text(lines)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "books.parquet")
    pairs = [{"source": f"Guten Morgen {number}", "target": f"Good morning {number}"} for number in range(40)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    reviews = [{"text": f"{('yes', 'no')[number % 2]}, {number}", "label": number % 2} for number in range(400)]
    (folder / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reviews))
    answers = [
        {"question": f"Is it {number}?", "answer": ("Yes.", "No.")[number % 2], "label": number % 2}
        for number in range(400)
    ]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    for name in ("chat.jsonl", "numbers.jsonl"):
        shutil.copy(ROOT / "docs/examples" / name, folder)
    for name in ("mix.yaml", "instruct.yaml", "numbers.yaml", "reviews.yaml"):
        values = yaml.safe_load((ROOT / "docs/examples" / name).read_text(encoding="utf-8"))
        values["training"] |= {"steps": 4, "batch_size": 2, "checkpoint_every": 2, "evaluate_every": 2}
        if "model" in values:
            values["model"] |= {"d_model": 16}
        (folder / name).write_text(yaml.safe_dump(values))


def small_config() -> str:
    """The docs' own example of a config, made small."""
    text = next(text for page, text in blocks("yaml") if page == "docs/configuration.md")
    values = yaml.safe_load(text)
    values["data"] |= {"tokenizer": "bytes", "sequence_length": 32}
    values["model"] |= {"d_model": 16}
    values["model"]["attention"] |= {"n_heads": 2, "n_kv_heads": 1}
    values["training"] |= {"steps": 4, "batch_size": 2, "checkpoint_every": 2}
    return yaml.safe_dump(values)


def main_ok(words: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code in (0, None), words


def test_every_command_runs(desk: Path) -> None:
    """In the order of the pages; a directory that one page fills is emptied when another page fills it again."""
    ran = list(commands())
    assert len(ran) > 12
    for words in ran:
        resumed = "--resume" in words
        if words[0] == "train" and not resumed:
            if "--out" in words:
                shutil.rmtree(words[words.index("--out") + 1], ignore_errors=True)
            asked = {word.split("=")[0] for word in words if "=" in word}
            if not any(word.endswith(".yaml") for word in words):
                words = [*words, *(f"{k}={v}" for k, v in SMALL.items() if k not in asked or k == "training.steps")]
                if "data.sources" not in asked:
                    words.append("data.sources=[{kind: text, path: notes/}]")
            words = [re.sub(r"training\.steps=\d+", "training.steps=4", word) for word in words]
        elif words[0] == "train":
            words = [re.sub(r"training\.steps=\d+", "training.steps=6", word) for word in words]
        elif words[0] == "generate":
            words = [*words, "--max-tokens", "4"]
        main_ok(words)


def test_every_piece_of_python_runs(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = 0
    for page, text in blocks("python"):
        if "import sublayer" in text and "sl.register" not in text:
            shutil.rmtree("runs/second", ignore_errors=True)
            exec(compile(re.sub(r"\"training\.steps\": \d+", '"training.steps": 4', text), page, "exec"), {})
            ran += 1
    assert ran >= 3


def test_the_errors_shown_are_the_ones_given(tmp_path: Path) -> None:
    """In a process of its own, as other tests register parts, which the sentences would name."""
    text = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\$ sublayer (.*)\n(sublayer: .*)$", text, re.MULTILINE)
    assert len(shown) == 2
    for command, message in shown:
        program = [sys.executable, "-c", "from sublayer.cli import main; main()", *shlex.split(command)]
        ended = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stderr.strip()) == (2, message)


def test_the_page_of_parts_has_every_family() -> None:
    import sublayer.run  # noqa: F401  (registers every part)
    from sublayer.registry import Registry

    page = (ROOT / "docs/parts.md").read_text(encoding="utf-8")
    # Parts of a test's own may be registered by then, but no family of theirs.
    assert sorted(re.findall(r"<!-- parts: (\S+) -->", page)) == sorted(Registry.families)
