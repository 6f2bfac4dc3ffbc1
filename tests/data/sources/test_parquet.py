"""The source of Parquet files."""

import sys
from pathlib import Path
from typing import Any

import pytest

from sublayer.data.document import Document
from sublayer.data.skipped import Skipped
from sublayer.data.sources import ParquetConfig
from sublayer.errors import DataError

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def write(path: Path, row_group_size: int = 2, **columns: Any) -> Path:
    parquet.write_table(arrow.table(columns), path, row_group_size=row_group_size)
    return path


def read(path: Path, skipped: Skipped | None = None, **options: Any) -> list[Document]:
    return list(ParquetConfig(path=str(path), **options).documents(skipped or Skipped()))


def test_a_document_is_the_column_of_a_row(tmp_path: Path) -> None:
    texts = [f"naïve {number} 東京" for number in range(600)]
    path = write(tmp_path / "web.parquet", row_group_size=250, id=range(600), text=texts)
    documents = read(path)
    assert [document.text for document in documents] == texts
    assert (documents[3].key, documents[3].domain) == ("web.parquet:4", "web")
    assert len({document.held_out_key for document in documents}) == 600


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "dictionary"])
def test_texts_of_every_arrow_kind(tmp_path: Path, kind: str) -> None:
    texts = arrow.array(["a", "bb", "a", ""])
    typed = texts.dictionary_encode() if kind == "dictionary" else texts.cast(getattr(arrow, kind)())
    assert [document.text for document in read(write(tmp_path / "a.parquet", text=typed))] == ["a", "bb", "a"]


def test_a_field_may_lie_deeper(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", meta=[{"body": "deep", "n": 1}], **{"a.b": ["dotted"]})
    assert [read(path, field=field)[0].text for field in ("meta.body", "a.b")] == ["deep", "dotted"]


def test_rows_without_text_are_refused_or_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", text=["before", None, "after", None])
    with pytest.raises(DataError, match=r"a\.parquet row 2: a field 'text' that holds no text \(it is a null\)"):
        read(path)
    skipped = Skipped()
    assert [document.text for document in read(path, skipped, damaged="skip")] == ["before", "after"]
    assert skipped.counts == {"a field 'text' that holds no text": 2}
    with pytest.raises(DataError, match=r"a\.parquet: no column 'body' \(it has: text\)"):
        read(path, field="body")
    with pytest.raises(DataError, match=r"row 1: a field 'n' that holds no text \(it is a number\)"):
        read(write(tmp_path / "b.parquet", n=[1]), field="n")


def test_bytes_that_are_no_text_are_located(tmp_path: Path) -> None:
    offsets, content = arrow.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0"), arrow.py_buffer(b"ab\xff\xfe")
    path = write(tmp_path / "a.parquet", text=arrow.Array.from_buffers(arrow.string(), 2, [None, offsets, content]))
    with pytest.raises(DataError, match=r"a\.parquet row 2: not UTF-8 text"):
        read(path)
    assert len(read(path, damaged="skip")) == 1


@pytest.mark.parametrize("damage", ["empty", "no parquet", "cut short", "changed"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    path = write(tmp_path / "a.parquet", text=["first", "second", "third", "fourth"])
    content = path.read_bytes()
    at = parquet.ParquetFile(path).metadata.row_group(1).column(0).dictionary_page_offset
    path.write_bytes(
        {
            "empty": b"",
            "no parquet": b"text\nfirst\n",
            "cut short": content[:-20],
            "changed": content[:at] + b"\xff" * 40 + content[at + 40 :],
        }[damage]
    )
    place = r" row 3" if damage == "changed" else ""
    with pytest.raises(DataError, match=rf"a\.parquet{place}: a Parquet file that is damaged or cut short"):
        read(path)
    write(tmp_path / "b.parquet", text=["whole"])
    skipped = Skipped()
    documents = read(tmp_path, skipped, damaged="skip")
    assert [d.text for d in documents] == [*(["first", "second"] if damage == "changed" else []), "whole"]
    assert skipped.total == 1


def test_an_empty_table_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.parquet is empty"):
        read(write(tmp_path / "a.parquet", text=[""]))


def test_a_missing_library_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", text=["a"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        DataError, match=r"needs the library pyarrow; install it with: pip install 'sublayer\[parquet\]'"
    ):
        read(path)
