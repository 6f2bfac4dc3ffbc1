from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sublayer.data.spool as spool_module
from sublayer.data.document import Document
from sublayer.data.spool import Spool
from sublayer.data.tokenizer import BpeConfig
from sublayer.errors import DataError

from .conftest import prose


def spooled(path: Path, *documents: Document) -> Spool:
    return Spool.write(path / "text", documents, lambda n: None)


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.text("a\né東 "), max_size=5))
@settings(max_examples=100, deadline=None)
def test_what_is_written_comes_back_in_pieces(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    spool = spooled(tmp_path_factory.mktemp("spool"), *(Document(str(n), "d", text) for n, text in enumerate(texts)))
    assert [entry.key for entry in spool.entries] == [str(n) for n, text in enumerate(texts) if text]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool_module, "PIECE", 5)
        for entry in spool.entries:
            pieces = list(spool.read(entry.begin, entry.end))
            assert "".join(pieces) == texts[int(entry.key)]
            assert all(pieces)
            assert all(len(piece.encode()) <= 5 for piece in pieces)


def test_pieces_of_a_document_are_one(tmp_path: Path) -> None:
    parts = [Document("a", "d", "one "), Document("a", "d", "two", continues=True), Document("b", "d", "three")]
    spool = spooled(tmp_path, *parts)
    assert ["".join(spool.read(entry.begin, entry.end)) for entry in spool.entries] == ["one two", "three"]


def test_tokens_of_pieces_are_the_tokens_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = prose(0, 200) + "def f(x):\n\n    return (x,\n\n  1)\n" * 50
    tokenizer = BpeConfig(vocab_size=400).build(lambda: iter([text]))
    spool = spooled(tmp_path, Document("a", "d", text))
    monkeypatch.setattr(spool_module, "PIECE", 256)
    pieces = list(spool.read(0, len(text.encode())))
    assert len(pieces) > 30
    tokens = [index for ids in tokenizer.encode_batch(pieces, start=False) for index in ids]
    assert tokens == tokenizer.encode(text, start=False)


@pytest.mark.parametrize(
    ("text", "wanted", "expected"),
    [
        ("ab\ncd\nef", 1, 3),  # the next line
        ("ab\ncd\nef", 3, 3),  # already at one
        ("ab\ncd\nef", 7, 6),  # none follows: the one before
        ("ab\ncd\n", 5, 3),  # the end is no place to cut
        ("abcdef", 3, 3),  # one line
        ("abéf", 3, 4),  # not inside a character
    ],
)
def test_where_a_document_is_cut(tmp_path: Path, text: str, wanted: int, expected: int) -> None:
    spool = spooled(tmp_path, Document("before", "d", "x\ny"), Document("a", "d", text), Document("after", "d", "\nz"))
    entry = spool.entries[1]
    assert spool.line_near(entry.begin + wanted, entry.begin, entry.end) - entry.begin == expected


def test_half_a_character_names_its_document(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the document 'bad' holds half a character"):
        spooled(tmp_path, Document("good", "d", "x"), Document("bad", "d", "\udc80"))
