"""Sources of JSON lines: documents and pairs."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from sublayer.data.document import END_MARK, Document, Segment
from sublayer.data.skipped import Skipped
from sublayer.data.sources import JsonlConfig, PairsConfig
from sublayer.errors import ConfigError, DataError

PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}


def write(path: Path, *rows: Any) -> Path:
    content = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(PACK[path.suffix if path.suffix in PACK else ""](content.encode()))
    return path


def read(path: Path, skipped: Skipped | None = None, **options: Any) -> list[Document]:
    return list(JsonlConfig(path=str(path), **options).documents(skipped or Skipped()))


@pytest.mark.parametrize("suffix", PACK)
def test_a_document_is_the_field_of_a_line(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"notes.jsonl{suffix}", {"text": "naïve 東京"}, "", {"text": "b\n", "id": 3}, {"text": ""})
    documents = read(path)
    assert [(d.key, d.domain, d.text) for d in documents] == [
        (f"notes.jsonl{suffix}:1", "notes", "naïve 東京"),
        (f"notes.jsonl{suffix}:3", "notes", "b\n"),
    ]


def test_a_folder_gives_its_json_lines(tmp_path: Path) -> None:
    folder = tmp_path / "crawl"
    for name in ("b.jsonl", "a.ndjson.gz", "deep/c.jsonl.zst", ".hidden.jsonl", "other.json", "d.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name, {"text": name})
    documents = read(folder)
    assert [document.text for document in documents] == ["a.ndjson.gz", "b.jsonl", "deep/c.jsonl.zst"]
    assert {document.domain for document in documents} == {"crawl"}
    with pytest.raises(DataError, match=r"no \.jsonl and \.ndjson files, packed or not, match"):
        read(folder / "*.txt")


def test_a_field_may_lie_deeper(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"meta": {"body": "deep"}, "a.b": "dotted"})
    assert [read(path, field=field)[0].text for field in ("meta.body", "a.b")] == ["deep", "dotted"]


def test_the_text_decides_the_held_out_side(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "same"}, {"text": "other"}, {"text": "same"})
    keys = [document.held_out_key for document in read(path)]
    assert keys[0] == keys[2] != keys[1]


DAMAGE = [
    ('{"text": "a"', r"not JSON \(it ends too early; each object must be on a line of its own\)"),
    ("[", r"not JSON \(it ends too early; each object"),
    ('{"text": "a" "b"}', r"not JSON \(expecting ',' delimiter at column 14\)"),
    ('{"text": "a', r"not JSON \(unterminated string starting at column 10\)"),
    ("[1]", r"not a JSON object \(it is a list, and each line must be an object\)"),
    ('"text"', r"not a JSON object \(it is a text, and"),
    ('{"body": "a", "id": 1}', r"no field 'text' \(it has: body, id\)"),
    ('{"text": 3}', r"a field 'text' that holds no text \(it is a number\)"),
    ('{"text": null}', r"a field 'text' that holds no text \(it is a null\)"),
    ('{"text": "\\ud800"}', r"half a character"),
    ("[" * 3000, r"not JSON"),
]


@pytest.mark.parametrize(("line", "message"), DAMAGE)
def test_a_damaged_line_is_refused_by_its_number_or_counted(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "before"}, line, {"text": "after"}, line)
    with pytest.raises(DataError, match=rf"a\.jsonl line 2: {message}.*; mend it, or set damaged: skip") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    skipped = Skipped()
    assert [document.text for document in read(path, skipped, damaged="skip")] == ["before", "after"]
    assert list(skipped.counts.values()) == [2]
    assert list(skipped.first.values()) == [f"{path} line 2"]


def test_bytes_that_are_no_text_are_located(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl line 2: not UTF-8 text \(byte 10 of the line cannot be read"):
        read(path)


def test_numbers_that_are_none_do_no_harm_beside_the_text(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.jsonl", '{"text": "a", "score": NaN}'))[0].text == "a"


def test_a_file_cut_short_is_located_or_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl.gz", *({"text": f"{number} {number**9}"} for number in range(500)))
    path.write_bytes(path.read_bytes()[:-800])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz line \d+: a packed file that is damaged or cut short"):
        read(path)
    skipped = Skipped()
    documents = read(path, skipped, damaged="skip")
    assert 0 < len(documents) < 500
    assert skipped.first == {"a packed file that is damaged or cut short": f"{path} line {len(documents) + 1}"}
    assert [document.text for document in documents[-2:]] == [f"{n} {n**9}" for n in range(500)][: len(documents)][-2:]


@pytest.mark.parametrize("rows", [[], ["", "  "], [{"text": ""}]])
def test_an_empty_file_is_said(tmp_path: Path, rows: list[Any]) -> None:
    with pytest.raises(DataError, match=r"a\.jsonl is empty; name a source with text"):
        read(write(tmp_path / "a.jsonl", *rows))


def test_all_that_was_passed_by_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"was passed by: no field 'text' \(2\), not JSON \(1\); mend it"):
        read(write(tmp_path / "a.jsonl", {"a": 1}, {"b": 2}, "no"), damaged="skip")


def pairs(path: Path, **options: Any) -> list[Document]:
    return list(PairsConfig(path=str(path), **options).documents(Skipped()))


def test_a_pair_scores_the_text_wanted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"de": "ja", "en": "yes"}, {"de": "", "en": "no"}, {"de": "nein", "en": ""})
    first, second = pairs(path, source_field="de", target_field="en", separator=" = ")
    end = Segment(END_MARK, scored=True, special=True)
    assert first.segments == (Segment("ja = ", scored=False), Segment("yes"), end)
    assert second.segments == (Segment(" = ", scored=False), Segment("no"), end)
    assert pairs(path, source_field="de", target_field="en", separator="")[1].segments == (Segment("no"), end)
    with pytest.raises(DataError, match=r"line 1: no field 'source' \(it has: de, en\)"):
        pairs(path)
    with pytest.raises(ConfigError, match=r"target_field is source_field \('de'\)"):
        PairsConfig(path="x", source_field="de", target_field="de")


def test_the_text_given_decides_the_side_of_a_pair(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *({"source": s, "target": t} for s, t in ("ab", "ac", "bc")))
    keys = [document.held_out_key for document in pairs(path)]
    assert keys[0] == keys[1] != keys[2]
