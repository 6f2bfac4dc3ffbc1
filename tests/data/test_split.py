from pathlib import Path

import pytest

from sublayer.data.document import Document, Segment
from sublayer.data.skipped import Skipped
from sublayer.data.split import Side, divide, is_held_out
from sublayer.data.spool import Spool


def spooled(path: Path, documents: list[Document]) -> Spool:
    return Spool.write(path / "0000.text", documents, Skipped(), lambda n: None)


def parts(spool: Spool, share: float) -> list[tuple[str, Side, int, int]]:
    """The domain, side and bytes of every part."""
    split = divide(spool, share)
    places = spool.places(0, spool.documents)
    held_out = split.held_out(spool.entries(0, spool.documents)["number"]).tolist()
    return [
        (spool.domains[place.domain], *part)
        for place, held in zip(places, held_out, strict=True)
        for part in split.parts(spool, place, held)
    ]


def texts(spool: Spool, parts: list[tuple[str, Side, int, int]], side: str) -> list[str]:
    return [spool.content(begin, end).decode() for _, of, begin, end in parts if of == side]


def test_the_choice_is_the_same_everywhere_and_always() -> None:
    assert [key for key in map(str, range(60)) if is_held_out(key, 0.05)] == ["31", "34", "47", "48"]
    held_out = [is_held_out(str(key), 0.2) for key in range(5000)]
    assert 0.18 < sum(held_out) / 5000 < 0.22
    assert all(is_held_out(str(key), 0.3) for key in range(5000) if held_out[key])


def test_documents_with_one_key_are_on_one_side(tmp_path: Path) -> None:
    documents = [
        Document(f"{d}{n}", d, f"{d} {n}\n", held_out_key=str(n)) for n in range(300) for d in ("code", "prose")
    ]
    spool = spooled(tmp_path, documents)
    made = parts(spool, 0.1)
    for domain in ("code", "prose"):
        held_out = {text.split()[1] for text in texts(spool, made, "validation") if text.startswith(domain)}
        assert held_out == {str(n) for n in range(300) if is_held_out(str(n), 0.1)}
    assert sorted(texts(spool, made, "training") + texts(spool, made, "validation")) == sorted(
        document.text for document in documents
    )


def test_another_document_moves_none(tmp_path: Path) -> None:
    documents = [Document(str(n), "d", f"{n}\n") for n in range(300)]
    before = set(texts(spool := spooled(tmp_path, documents[:299]), parts(spool, 0.1), "validation"))
    after = set(texts(spool := spooled(tmp_path, documents), parts(spool, 0.1), "validation"))
    assert after - before <= {"299\n"}
    assert before <= after


LINES = "".join(f"line {n}\n" for n in range(100))


@pytest.mark.parametrize(
    "documents",
    [
        pytest.param([Document("a", "d", LINES)], id="one"),
        pytest.param([Document(str(n), "d", LINES) for n in range(19)], id="few"),
        pytest.param(
            [Document(str(n), "d", "x\n") for n in range(100)] + [Document("large", "d", LINES * 50)],
            id="one too large",
        ),
        pytest.param(
            [Document(str(n), "d", LINES) for n in range(100)] + [Document("lone", "other", LINES)], id="a lone domain"
        ),
    ],
)
def test_where_whole_documents_are_too_coarse_the_ends_are_held_out(tmp_path: Path, documents: list[Document]) -> None:
    spool = spooled(tmp_path, documents)
    made = parts(spool, 0.1)
    trained, held_out = texts(spool, made, "training"), texts(spool, made, "validation")
    share = sum(map(len, held_out)) / sum(len(document.text) for document in documents)
    assert 0.05 <= share <= 0.12
    for document, text in zip(documents, trained, strict=True):
        assert document.text.startswith(text)
        assert text.endswith("\n") or len(document.text) < 3
    assert sum(map(len, trained)) + sum(map(len, held_out)) == sum(len(document.text) for document in documents)
    assert {domain for domain, side, _, _ in made if side == "validation"} == {
        document.domain for document in documents
    }


def test_a_single_byte_stays_in_training(tmp_path: Path) -> None:
    spool = spooled(tmp_path, [Document("a", "d", "x")])
    assert parts(spool, 0.5) == [("d", "training", 0, 1)]


@pytest.mark.parametrize("n_documents", [2, 10, 19, 400])
def test_documents_in_segments_are_never_cut(tmp_path: Path, n_documents: int) -> None:
    documents = [
        Document(str(n), "d", segments=(Segment("question\n" * 5, scored=False), Segment(f"answer {n}\n")))
        for n in range(n_documents)
    ]
    spool = spooled(tmp_path, documents)
    made = parts(spool, 0.1)
    assert len(made) == n_documents
    held_out = texts(spool, made, "validation")
    assert max(1, 0.05 * n_documents) <= len(held_out) <= max(1, 0.2 * n_documents)


def test_every_domain_in_segments_has_both_sides(tmp_path: Path) -> None:
    documents = [Document(f"{d}{n}", d, segments=(Segment("x" * 50),)) for d in "ab" for n in range(5)]
    made = parts(spooled(tmp_path, documents), 0.05)
    assert {(domain, side) for domain, side, _, _ in made} == {(d, s) for d in "ab" for s in ("training", "validation")}
