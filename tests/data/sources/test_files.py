"""Packed files, and lines of bounded length."""

import gzip
import random
import tracemalloc
from pathlib import Path

import pytest
import zstandard

from sublayer.data.skipped import Skipped
from sublayer.data.sources import JsonlConfig, TextConfig, files
from sublayer.data.sources.damage import Damage
from sublayer.data.sources.files import blocks, lines
from sublayer.errors import DataError

PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_blocks_join_to_the_content(tmp_path: Path, suffix: str, size: int) -> None:
    path, content = tmp_path / f"a{suffix}", noise(10_000)
    path.write_bytes(PACK[suffix](content))
    found = list(blocks(path, size))
    assert b"".join(found) == content
    assert {len(block) for block in found[:-1]} == {size}


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_files_joined_after_packing_are_read_to_the_end(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "anything"  # the first bytes tell, whatever the name says
    path.write_bytes(PACK[suffix](noise(3000)) + PACK[suffix](noise(5000)))
    assert b"".join(blocks(path, 1000)) == noise(3000) + noise(5000)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["cut short", "changed", "not packed"])
def test_packed_files_that_are_damaged(tmp_path: Path, suffix: str, damage: str) -> None:
    path, packed = tmp_path / f"a{suffix}", PACK[suffix](noise(10_000))
    middle = len(packed) // 2
    path.write_bytes(
        {
            "cut short": packed[:-3],
            "changed": packed[:6] + bytes(byte ^ 255 for byte in packed[6:middle]) + packed[middle:],
            "not packed": b'{"text": "a"}',
        }[damage]
    )
    with pytest.raises(Damage, match="a packed file that is damaged or cut short"):
        list(blocks(path, 1000))


def read(path: Path, longest: int = 100) -> tuple[list[tuple[int, bytes]], list[tuple[int, str]]]:
    damaged: list[tuple[int, str]] = []
    return list(lines(path, longest, lambda number, damage: damaged.append((number, damage.reason)))), damaged


@pytest.mark.parametrize("block", [1, 2, 3, 5, 1 << 20])
def test_lines_have_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(files, "BLOCK", max(block, 3))
    path = tmp_path / "a"
    path.write_bytes("\ufeffa\r\n\n  \nbé\n\nc".encode())
    assert read(path) == ([(1, b"a\r"), (4, "bé".encode()), (6, b"c")], [])


@pytest.mark.parametrize("block", [3, 8, 1 << 20])
@pytest.mark.parametrize("end", [b"", b"\n", b"\nlast"])
def test_lines_too_long_are_passed_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, end: bytes
) -> None:
    monkeypatch.setattr(files, "BLOCK", block)
    path = tmp_path / "a"
    path.write_bytes(b"first\n" + 11 * b"x" + b"\n" + 10 * b"y" + b"\n" + 100 * b"z" + end)
    found, damaged = read(path, longest=10)
    assert found == [(1, b"first"), (3, 10 * b"y"), *([(5, b"last")] if end == b"\nlast" else [])]
    assert damaged == [(number, "a line of more than 10 bytes (longest_line)") for number in (2, 4)]


def test_a_line_without_end_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    with path.open("wb") as file, zstandard.ZstdCompressor(level=1).stream_writer(file) as packed:
        packed.write(b'{"text": "')
        for _ in range(256):  # 256 MB in a few KB
            packed.write(bytes(1 << 20))
        packed.write(b'"}\n{"text": "after"}\n')
    source = JsonlConfig(path=str(path), longest_line=1 << 20, damaged="skip")
    skipped = Skipped()
    tracemalloc.start()
    try:
        assert [document.text for document in source.documents(skipped)] == ["after"]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert skipped.counts == {"a line of more than 1,048,576 bytes (longest_line)": 1}
    assert peak < 80 << 20


def test_packed_text_is_read_and_goes_by_its_stem(tmp_path: Path) -> None:
    for number, suffix in enumerate(PACK):
        (tmp_path / f"{number}.txt{suffix}").write_bytes(PACK[suffix](f"text {number}".encode()))
    (tmp_path / "tape.tar.gz").write_bytes(gzip.compress(bytes(1000)))
    documents = list(TextConfig(path=str(tmp_path)).documents(Skipped()))
    assert [document.text for document in documents] == ["text 0", "text 1", "text 2"]
    (document,) = TextConfig(path=str(tmp_path / "1.txt.gz")).documents(Skipped())
    assert document.domain == "1"


def test_a_text_file_that_is_damaged_is_refused_or_left_where_it_breaks_off(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"a\n" * 1000)[:-4])
    (tmp_path / "b.txt").write_bytes(b"good\n")
    (tmp_path / "c.txt").write_bytes(b"\xff\n")
    with pytest.raises(DataError, match=r"a\.txt\.gz: a packed file that is damaged or cut short .* damaged: skip"):
        list(TextConfig(path=str(tmp_path)).documents(Skipped()))
    skipped = Skipped()
    documents = list(TextConfig(path=str(tmp_path), damaged="skip").documents(skipped))
    assert documents[-1].text == "good\n"
    assert skipped.first == {
        "a packed file that is damaged or cut short": str(tmp_path / "a.txt.gz"),
        "not utf-8 text": str(tmp_path / "c.txt"),
    }


def test_the_stamp_follows_size_and_time_and_the_size_counts_packed_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("text")
    source = TextConfig(path=str(tmp_path))
    assert source.size() == 4
    before = source.stamp()
    assert source.stamp() == before
    path.write_text("texts")
    assert source.stamp() != before
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(noise(1000).hex().encode()))
    assert source.size() > 3000
