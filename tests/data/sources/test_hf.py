"""The source of Hugging Face datasets, on folders of this machine: nothing touches the network."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from sublayer.data.document import Document
from sublayer.data.skipped import Skipped
from sublayer.data.sources import HfConfig
from sublayer.errors import DataError

TEXTS = ["first", "naïve 東京", "", "third"]


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache of datasets")
    datasets.disable_progress_bars()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that `load_dataset` reads: two splits as JSON lines."""
    folder = tmp_path / "small"
    folder.mkdir()
    for split, texts in (("train", TEXTS), ("test", ["test"])):
        rows = "".join(json.dumps({"text": text, "meta": {"body": f"deep {text}"}, "n": 1}) + "\n" for text in texts)
        (folder / f"{split}.jsonl").write_text(rows, encoding="utf-8")
    return folder


def read(name: Path | str, skipped: Skipped | None = None, **options: Any) -> list[Document]:
    return list(HfConfig(name=str(name), **options).documents(skipped or Skipped()))


@pytest.mark.parametrize("streaming", [True, False])
def test_a_document_is_the_column_of_a_row(folder: Path, streaming: bool) -> None:
    documents = read(folder, streaming=streaming)
    assert [document.text for document in documents] == ["first", "naïve 東京", "third"]
    assert (documents[2].key, documents[2].domain) == (f"{folder}:4", "small")
    assert [document.text for document in read(folder, streaming=streaming, split="test")] == ["test"]
    assert read(folder, streaming=streaming, field="meta.body", domain="d")[0].text == "deep first"


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    import datasets

    table = datasets.Dataset.from_dict({"text": TEXTS})
    table.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": table, "test": table.select([0])}).save_to_disk(tmp_path / "two")
    assert len(read(tmp_path / "one")) == len(read(tmp_path / "two")) == 3
    assert len(read(tmp_path / "two", split="test")) == 1
    for options, message in (
        ({"split": "dev"}, r"has no split 'dev'; name one of: train, test"),
        ({"config": "de"}, "was written by save_to_disk and has no config"),
    ):
        with pytest.raises(DataError, match=message):
            read(tmp_path / "two", **options)
    with pytest.raises(DataError, match="holds a single dataset and no splits"):
        read(tmp_path / "one", split="test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "dev"}, r"could not be read \(.*dev.*\); look at its name, config, split and revision"),
        ({"config": "de"}, r"could not be read \(.*de.*not found"),
        ({"field": "body"}, r"has no column 'body' \(it has: text, meta, n\)"),
        ({"field": "n"}, r"row 1: a field 'n' that holds no text \(it is a number\)"),
        ({"name": "nobody/nothing"}, r"the dataset nobody/nothing could not be read"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(folder: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(**{"name": folder} | options)
    assert "\n" not in str(caught.value)


def test_rows_without_text_are_counted_where_that_is_asked_for(folder: Path) -> None:
    with (folder / "train.jsonl").open("a") as file:
        file.write('{"text": null, "meta": {"body": "a"}, "n": 2}\n')
    with pytest.raises(DataError, match=r"row 5: a field 'text' that holds no text \(it is a null\)"):
        read(folder)
    skipped = Skipped()
    assert len(read(folder, skipped, damaged="skip")) == 3
    assert skipped.counts == {"a field 'text' that holds no text": 1}


def test_the_fingerprint_follows_the_content(folder: Path) -> None:
    source = HfConfig(name=str(folder))
    before, stamp = source.fingerprint(), source.stamp()
    assert (source.fingerprint(), source.stamp()) == (before, stamp)
    (folder / "train.jsonl").write_text('{"text": "other"}\n')
    assert source.fingerprint() != before
    assert source.stamp() != stamp
    with pytest.raises(DataError, match="the dataset nobody/nothing could not be read"):
        HfConfig(name="nobody/nothing").fingerprint()


def test_a_missing_library_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs the library datasets; install it with: pip install 'sublayer\[hf\]'"):
        read(folder)
