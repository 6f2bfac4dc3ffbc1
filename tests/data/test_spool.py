from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sublayer.data.spool as spool_module
from sublayer.data.document import Document, Segment
from sublayer.data.skipped import Skipped
from sublayer.data.spool import Spool, opened_spool
from sublayer.data.tokenizer import BpeConfig
from sublayer.errors import DataError

from .conftest import prose


def spooled(path: Path, *documents: Document) -> Spool:
    return Spool.write(path / "0000.text", documents, Skipped(), lambda n: None)


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.text("a\né東 "), max_size=5))
@settings(max_examples=100, deadline=None)
def test_what_is_written_comes_back_in_pieces(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    spool = spooled(tmp_path_factory.mktemp("spool"), *(Document(str(n), "d", text) for n, text in enumerate(texts)))
    kept = [str(n) for n, text in enumerate(texts) if text]
    if not kept:
        assert spool.documents == 0
        return
    assert spool.keys(0, spool.documents) == [key.encode() for key in kept]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool_module, "PIECE", 5)
        for key, place in zip(kept, spool.places(0, spool.documents), strict=True):
            pieces = [piece.decode() for piece in spool.read(place.begin, place.end)]
            assert "".join(pieces) == texts[int(key)]
            assert all(pieces)
            assert all(len(piece.encode()) <= 5 for piece in pieces)


def test_pieces_of_a_document_are_one(tmp_path: Path) -> None:
    parts = [Document("a", "d", "one "), Document("a", "d", "two", continues=True), Document("b", "d", "three")]
    spool = spooled(tmp_path, *parts)
    places = spool.places(0, spool.documents)
    assert [b"".join(spool.read(place.begin, place.end)) for place in places] == [b"one two", b"three"]
    assert spool.keys(1, 2) == [b"b"]


def test_tokens_of_pieces_are_the_tokens_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = prose(0, 200) + "def f(x):\n\n    return (x,\n\n  1)\n" * 50
    tokenizer = BpeConfig(vocab_size=400).build(lambda: iter([text]))
    spool = spooled(tmp_path, Document("a", "d", text))
    monkeypatch.setattr(spool_module, "PIECE", 256)
    pieces = [piece.decode() for piece in spool.read(0, len(text.encode()))]
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
    (place,) = spool.places(1, 2)
    assert spool.line_near(place.begin + wanted, place.begin, place.end) - place.begin == expected


def test_half_a_character_names_its_document(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the document 'bad' holds half a character"):
        spooled(tmp_path, Document("good", "d", "x"), Document("bad", "d", "\udc80"))


def test_segments_come_back_as_they_were(tmp_path: Path) -> None:
    segments = (Segment("user: ", scored=False, special=True), Segment("naïve", scored=False), Segment("yes"))
    spool = spooled(tmp_path, Document("a", "d", segments=segments), Document("b", "d", "text"))
    first, second = spool.places(0, 2)
    assert tuple(spool.segments(first)) == segments
    assert second.segment_begin == second.segment_end
    assert spool.content(second.begin, second.end) == b"text"
    assert spool.has_segments


def test_a_long_segment_comes_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "PIECE", 100)
    long = prose(0, 20)
    segments = (Segment(long, scored=False), Segment(long, special=True))
    spool = spooled(tmp_path, Document("a", "d", segments=segments))
    *pieces, whole = spool.segments(*spool.places(0, 1))
    assert "".join(piece.text for piece in pieces) == long
    assert len(pieces) > 5
    assert not any(piece.scored or piece.special for piece in pieces)
    assert whole == segments[1]


def test_names_are_one_line_each(tmp_path: Path) -> None:
    spool = spooled(tmp_path, Document("a\nb\x85c", "d", "x"), Document("\udc80", "d", "y"), Document("", "d", "z"))
    assert spool.keys(0, 3) == [b"a b c", b"?", b""]


def test_the_index_is_read_across_its_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "BLOCK", 4)
    texts = [str(n) * (1 + n % 3) for n in range(10)]
    spool = spooled(tmp_path, *(Document(str(n), f"domain {n % 2}", text) for n, text in enumerate(texts)))
    assert [size for _, sizes in spool.blocks() for size in sizes.tolist()] == list(map(len, texts))
    assert [spool.content(place.begin, place.end).decode() for place in spool.places(3, 9)] == texts[3:9]
    assert spool.keys(3, 9) == [str(n).encode() for n in range(3, 9)]
    assert [spool.domains[place.domain] for place in spool.places(0, 3)] == ["domain 0", "domain 1", "domain 0"]


@pytest.mark.parametrize("suffix", [".text", ".index", ".segments", ".json"])
def test_a_spool_that_is_not_whole_is_not_opened(tmp_path: Path, suffix: str) -> None:
    spooled(tmp_path, Document("a", "d", segments=(Segment("x"),)))
    path = tmp_path / "0000.text"
    assert opened_spool(path) is not None
    file = path.with_suffix(suffix)
    file.write_bytes(file.read_bytes()[:-1])
    assert opened_spool(path) is None


def test_what_fails_while_it_is_written_down_leaves_nothing(tmp_path: Path) -> None:
    def documents() -> Iterator[Document]:
        yield Document("a", "d", "x")
        raise DataError("no more")

    with pytest.raises(DataError, match="no more"):
        Spool.write(tmp_path / "0000.text", documents(), Skipped(), lambda n: None)
    assert not list(tmp_path.iterdir())
