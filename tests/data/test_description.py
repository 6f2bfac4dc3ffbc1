import json
from pathlib import Path

import pytest

from sublayer.data import Corpus, DataConfig, prepare
from sublayer.data.description import describe

from .conftest import prose

LENGTH = 32


def rows(path: Path, texts: list[str]) -> dict[str, object]:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return {"kind": "jsonl", "path": str(path), "damaged": "skip"}


def corpus(tmp_path: Path, texts: list[str], held_out: list[str]) -> Corpus:
    source, validation = rows(tmp_path / "texts.jsonl", texts), rows(tmp_path / "held.jsonl", held_out)
    with (tmp_path / "texts.jsonl").open("a") as file:
        file.write("not json\n{}\n")
    return prepare(
        DataConfig(
            sources=[source, {"kind": "text", "path": str(tmp_path / "texts.jsonl"), "domain": "raw", "weight": 3.0}],
            validation=validation,
            tokenizer="bytes",
            sequence_length=LENGTH,
        )
    )


@pytest.fixture
def made(tmp_path: Path) -> Corpus:
    texts = [prose(number, 3) for number in range(40)] + [prose(number, 3) for number in (3, 7, 7)] + ["x"]
    return corpus(tmp_path, texts, [prose(number, 3) for number in (100, 3, 101)])


def test_every_figure_is_what_counting_gives(made: Corpus, tmp_path: Path) -> None:
    told = describe(made, n_samples=1000)
    texts = [json.loads(line)["text"] for line in (tmp_path / "texts.jsonl").read_text().splitlines()[:-2]]
    size = sum(len(text.encode()) for text in texts)
    training = next(side for side in told.sides if (side.domain, side.side) == ("texts", "training"))
    assert (training.documents, training.bytes, training.tokens) == (len(texts), size, size + len(texts))
    assert training.bytes_per_token == 1.0
    assert training.rows == (training.tokens - 1) // LENGTH
    assert (training.truncated, training.left_out, training.padding) == (0, 0, 0)
    assert told.shares == pytest.approx({"raw": 0.75, "texts": 0.25})
    assert [source.share for source in told.sources] == pytest.approx([0.25, 0.75])
    assert [source.epochs for source in told.sources] == pytest.approx(made.epochs(1000))
    assert told.sources[0].skipped == {"not JSON": 1, "no field 'text'": 1}
    assert "texts.jsonl line 45" in told.sources[0].first_skipped["not JSON"]
    assert [source.epochs for source in describe(made).sources] == [None, None]


def test_lengths_are_counted_by_powers_of_two(made: Corpus, tmp_path: Path) -> None:
    told = next(lengths for lengths in describe(made).lengths if lengths.domain == "texts")
    texts = [json.loads(line)["text"] for line in (tmp_path / "texts.jsonl").read_text().splitlines()[:-2]]
    lengths = sorted(1 + len(text.encode()) for text in texts)
    assert told.longest == lengths[-1]
    assert told.mean == pytest.approx(sum(lengths) / len(lengths))
    assert told.median == (lengths[21] + lengths[22]) / 2
    assert told.documents == [sum(low <= length < 2 * low for length in lengths) for low in told.at_least]
    assert told.at_least[:4] == [1, 2, 4, 8]
    assert told.documents[1] == 1  # "x" and the token that begins it


def test_texts_that_come_again_are_found_with_their_places(made: Corpus, tmp_path: Path) -> None:
    told = describe(made)
    texts = [json.loads(line)["text"] for line in (tmp_path / "texts.jsonl").read_text().splitlines()[:-2]]
    again = sum(len(texts[number].encode()) for number in (40, 41, 42))
    size = sum(side.bytes for side in told.sides if side.side == "training")
    assert told.duplicates.documents == 3
    assert told.duplicates.share_of_bytes == pytest.approx(again / size)
    named = {(pair.document.split(":")[-1], pair.same_as.split(":")[-1]) for pair in told.duplicates.examples}
    assert named == {("41", "4"), ("42", "8"), ("43", "8")}
    assert told.leakage.documents == 1
    (pair,) = told.leakage.examples
    assert (pair.document.split(":")[-1], pair.same_as.split(":")[-1]) == ("2", "4")


def test_a_large_document_has_the_hash_of_its_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sublayer.data.chunks.CHUNK", 3000)
    large = prose(0, 300)
    told = describe(corpus(tmp_path, [large, prose(1, 3), large], [prose(2, 3), large]))
    assert (told.duplicates.documents, told.leakage.documents) == (1, 1)


def test_nothing_comes_again_and_the_tree_is_json(tmp_path: Path) -> None:
    told = describe(corpus(tmp_path, [prose(1, 9), prose(2, 9)], [prose(3, 9)]))
    assert (told.duplicates.documents, told.leakage.documents) == (0, 0)
    tree = json.loads(json.dumps(told.tree()))
    assert tree["sides"][0]["domain"] == "held"
    assert tree["duplicates"] == {"documents": 0, "share_of_bytes": 0.0, "examples": []}
