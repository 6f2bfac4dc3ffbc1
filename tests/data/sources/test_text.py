import os
from pathlib import Path

import pytest

import sublayer.data.sources.text as text_module
from sublayer.data.skipped import Skipped
from sublayer.data.sources import TextConfig
from sublayer.errors import ConfigError, DataError


def keys(path: Path | str, **options: str) -> list[str]:
    return [document.key for document in TextConfig(path=str(path), **options).documents(Skipped())]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "my notes"
    for name in ("b.txt", "a.md", "sub/c.txt", "sub/.hidden.txt", ".git/config", "sub/deep/d.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"the text of {name}\n", encoding="utf-8")
    (folder / "picture.png").write_bytes(b"\x89PNG\0\0\0\xff")
    (folder / "empty.txt").touch()
    return folder


def test_a_folder_gives_its_text_files(folder: Path) -> None:
    assert keys(folder) == ["a.md", "b.txt", "sub/c.txt", "sub/deep/d.txt"]
    documents = list(TextConfig(path=str(folder)).documents(Skipped()))
    assert {document.domain for document in documents} == {"my notes"}
    assert documents[2].text == "the text of sub/c.txt\n"


def test_a_file_goes_by_its_stem(folder: Path) -> None:
    (document,) = TextConfig(path=str(folder / "b.txt")).documents(Skipped())
    assert (document.key, document.domain) == ("b.txt", "b")


def test_a_glob_takes_what_matches(folder: Path) -> None:
    assert keys(folder / "**" / "*.txt") == ["b.txt", "sub/c.txt", "sub/deep/d.txt"]
    assert keys(folder / "*") == ["a.md", "b.txt"]
    (document,) = TextConfig(path=str(folder / "sub" / "*.txt")).documents(Skipped())
    assert document.domain == "sub"


def test_a_path_may_be_relative(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert keys("*.md") == ["a.md"]
    assert keys(".") == ["a.md", "b.txt", "sub/c.txt", "sub/deep/d.txt"]
    assert next(TextConfig(path=".").documents(Skipped())).domain == "my notes"


def test_a_domain_can_be_named(folder: Path) -> None:
    assert next(TextConfig(path=str(folder), domain="letters").documents(Skipped())).domain == "letters"
    with pytest.raises(ConfigError, match="domain: must be a short name without '/'"):
        TextConfig(path=str(folder), domain="a/b")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing", r"there is no file or folder .*nothing; name one that exists"),
        ("*.rst", r"no text files match .*\*\.rst \(hidden and binary files are passed by\)"),
        ("hollow", r"the folder .*hollow holds no text files"),
        ("empty.txt", r"empty\.txt is empty; name a source with text"),
        ("empties", r"all 2 text files of .*empties are empty"),
    ],
)
def test_nothing_to_read_is_one_sentence(folder: Path, path: str, message: str) -> None:
    (folder / "hollow").mkdir()
    (folder / "empties").mkdir()
    (folder / "empties" / "1.txt").touch()
    (folder / "empties" / "2.txt").touch()
    with pytest.raises(DataError, match=message):
        keys(folder / path)


@pytest.mark.parametrize("piece", [3, 1 << 20])
def test_bytes_that_are_no_text_are_located(folder: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(text_module, "PIECE", piece)
    (folder / "b.txt").write_bytes("première\nligne\n".encode() + b"ab\xffcd\n")
    with pytest.raises(DataError, match=r"b\.txt: not utf-8 text \(byte 18 in line 3 cannot be read"):
        keys(folder)


def test_a_character_cut_off_at_the_end_is_located(folder: Path) -> None:
    (folder / "b.txt").write_bytes("ab é".encode()[:-1])
    with pytest.raises(DataError, match=r"b\.txt: not utf-8 text \(byte 3 in line 1"):
        keys(folder / "b.txt")


def test_long_files_come_in_pieces_that_join(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "PIECE", 7)
    text = "naïve 東京 \U0001d11e\r\n" * 5
    (folder / "b.txt").write_bytes(text.encode())
    pieces = list(TextConfig(path=str(folder / "b.txt")).documents(Skipped()))
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.continues for piece in pieces] == [False] + [True] * (len(pieces) - 1)


def test_encodings_and_byte_order_marks(folder: Path) -> None:
    (folder / "b.txt").write_bytes("été".encode("utf-16"))
    assert next(TextConfig(path=str(folder / "b.txt"), encoding="utf-16").documents(Skipped())).text == "été"
    (folder / "b.txt").write_bytes("été".encode("utf-8-sig"))
    assert next(TextConfig(path=str(folder / "b.txt")).documents(Skipped())).text == "été"
    with pytest.raises(ConfigError, match="encoding: 'utf-99' is not a text encoding"):
        TextConfig(path="x", encoding="utf-99")
    with pytest.raises(ConfigError, match="encoding: 'hex' is not a text encoding"):
        TextConfig(path="x", encoding="hex")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_named(folder: Path) -> None:
    (folder / "b.txt").chmod(0)
    with pytest.raises(DataError, match=r"b\.txt could not be read \(Permission denied\)"):
        keys(folder)


def test_the_fingerprint_follows_names_and_content(folder: Path) -> None:
    source = TextConfig(path=str(folder))
    seen = {source.fingerprint()}
    assert source.fingerprint() in seen
    (folder / "b.txt").write_text("the text of b.tXt\n", encoding="utf-8")  # as long as before
    seen.add(source.fingerprint())
    (folder / "b.txt").rename(folder / "bb.txt")
    seen.add(source.fingerprint())
    (folder / "new.txt").write_text("new", encoding="utf-8")
    seen.add(source.fingerprint())
    seen.add(TextConfig(path=str(folder), encoding="latin-1").fingerprint())
    assert len(seen) == 5


def test_the_fingerprint_stays_where_the_folder_moves(folder: Path) -> None:
    before = TextConfig(path=str(folder), domain="notes").fingerprint()
    moved = folder.rename(folder.with_name("moved"))
    assert TextConfig(path=str(moved), domain="notes").fingerprint() == before
