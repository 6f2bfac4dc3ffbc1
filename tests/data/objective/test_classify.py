import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise, permutations
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sublayer.data import Corpus, DataConfig, Document, SourceConfig, prepare
from sublayer.data.objective.classify import Texts, _in_order
from sublayer.data.reading import warnings
from sublayer.data.skipped import Skipped
from sublayer.data.sources import SOURCES
from sublayer.errors import ConfigError, DataError

TEXTS = {f"{animal} number {number}{' and more' * (number % 4)}": animal for animal in ("cat", "dog", "eel")
         for number in range(40 if animal == "cat" else 25)}  # fmt: skip


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    return write(tmp_path / "animals.jsonl", [{"text": text, "label": label} for text, label in TEXTS.items()])


def corpus(path: Path, objective: object = "classify", length: int = 64, **source: object) -> Corpus:
    sources = {"kind": "labelled", "path": str(path), **source}
    return prepare(DataConfig(sources=sources, tokenizer="bytes", sequence_length=length, objective=objective))


def read(data: Corpus, domain: str) -> Counter[tuple[str, str]]:
    """How often each text and class comes, on both sides together, in rows that hold nothing else."""
    found: Counter[tuple[str, str]] = Counter()
    held_out = list(data.validation(domain, 7))
    for batch in [data.batch(0, 0, -(-data.n_training_rows // 64) * 64), *held_out]:
        assert batch.targets_BT.shape == (len(batch.tokens_BT),)
        assert (batch.positions_BT, batch.document_BT) == (None, None)
        for row, target in enumerate(batch.targets_BT.tolist()):
            tokens = batch.tokens_BT[row]
            valid = tokens[batch.valid_BT[row]] if batch.valid_BT is not None else tokens
            assert valid[0] == data.tokenizer.end_id
            found[data.tokenizer.decode(valid.tolist()), data.classes[target]] += 1
    return found


def test_every_text_has_its_class(animals: Path) -> None:
    data = corpus(animals)
    assert data.classes == ("cat", "dog", "eel")
    assert data.n_answers == 3
    assert set(read(data, "animals")) == set(TEXTS.items())
    held_out = [batch.targets_BT for batch in data.validation("animals", 4)]
    assert sum(map(len, held_out)) >= 4


def test_rows_are_no_longer_than_they_must_be(animals: Path) -> None:
    data = corpus(animals, length=512)
    widths = {data.batch(0, first, 8).tokens_BT.shape[1] for first in range(0, 64, 8)}
    longest = 1 + max(map(len, TEXTS))
    assert max(widths) == -(-longest // 16) * 16
    assert corpus(animals, length=24).batch(0, 0, 8).tokens_BT.shape[1] == 24


def test_a_second_text_stands_behind_the_end_token(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"q": f"is {n} even", "a": "yes" * (n % 3), "label": n % 2 == 0} for n in range(60)
    ]
    fields = {"text_field": "q", "second_field": "a"}
    data = corpus(write(tmp_path / "pairs.jsonl", rows), **fields)
    assert data.classes == ("false", "true")
    batch = data.batch(0, 0, 16)
    end = data.tokenizer.end_id
    for row, target in zip(batch.tokens_BT.tolist(), batch.targets_BT.tolist(), strict=True):
        first = row.index(end, 1)
        text = data.tokenizer.decode(row[:first])
        assert (int(text.split()[1]) % 2 == 0) == (data.classes[target] == "true")
        assert data.tokenizer.decode(row[first:]) in ("", "yes", "yesyes")


def test_tokens_know_which_of_two_texts_they_are_in(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"q": f"is {n} even" * (1 + n % 5), "a": "yes" * (n % 9), "label": n % 2} for n in range(60)
    ]
    path = write(tmp_path / "pairs.jsonl", rows)
    fields = {"text_field": "q", "second_field": "a"}
    for objective, length in (("classify", 64), ("classify", 16), ({"kind": "classify", "long": "pieces"}, 16)):
        data = corpus(path, objective, length, **fields)
        begun: Counter[str] = Counter()
        held_out = list(data.validation("pairs", 7))
        for batch in [data.batch(0, 0, 4 * data.n_training_rows), *held_out]:
            # Some batches are cut off before any second text.
            assert length == 16 or batch.segment_BT is not None
            segment_BT = torch.zeros_like(batch.tokens_BT) if batch.segment_BT is None else batch.segment_BT
            valid_BT = batch.tokens_BT >= 0 if batch.valid_BT is None else batch.valid_BT
            for tokens_T, segment_T, valid_T in zip(batch.tokens_BT, segment_BT, valid_BT, strict=True):
                first, second = (data.tokenizer.decode(tokens_T[valid_T & (segment_T == n)].tolist()) for n in (0, 1))
                assert set(second) <= set("yes") and (not first or set(first) & set("is 0123456789vn"))
                assert segment_T[0] == 0 and bool((segment_T.diff() >= 0)[valid_T[1:]].all())
                begun["first" if first else "second"] += 1
        assert (begun["second"] > 0) == (objective != "classify")
    assert corpus(path, text_field="q").batch(0, 0, 8).segment_BT is None


def test_whole_numbers_are_sorted_by_their_value(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": f"text {n}", "label": n % 12} for n in range(120)]
    path = write(tmp_path / "numbers.jsonl", rows)
    assert corpus(path).classes == tuple(map(str, range(12)))
    names = tuple(map(str, range(13, -1, -1)))
    named = corpus(path, {"kind": "classify", "classes": names})
    assert named.classes == names
    assert {(text.split()[1], label) for text, label in read(named, "numbers")} == {
        (str(n), str(n % 12)) for n in range(120)
    }


def test_whole_numbers_of_the_same_value_have_a_fixed_order(tmp_path: Path) -> None:
    labels = {"1", "01", "2", "001", "+1", "-1"}
    assert sorted(labels - {"+1"}, key=_in_order(labels - {"+1"})) == ["-1", "001", "01", "1", "2"]
    for order in permutations(["1", "01", "001"]):
        # What a set of other hashes would be gone through like.
        assert sorted(order, key=_in_order(set(order))) == ["001", "01", "1"]
    assert sorted(labels, key=_in_order(labels)) == ["+1", "-1", "001", "01", "1", "2"]


def of_labels(path: Path, labels: list[object]) -> Path:
    return write(path, [{"text": f"text {number}", "label": label} for number, label in enumerate(labels)])


def test_the_classes_are_those_of_training(tmp_path: Path) -> None:
    learnt = of_labels(tmp_path / "learnt.jsonl", ["a", "b", "c"] * 20)
    held_out = of_labels(tmp_path / "held_out.jsonl", ["a", "c", "zebra"] * 20)
    validation = {"kind": "labelled", "path": str(held_out)}

    def read_as(objective: object) -> Corpus:
        sources = {"kind": "labelled", "path": str(learnt)}
        return prepare(DataConfig(sources=sources, validation=validation, tokenizer="bytes", objective=objective))

    message = (
        r"^data\.objective: held-out text is of the class 'zebra', which training has none of \(it has a, b, c\); mend "
        r"the labels, or name all classes in data\.objective\.classes\.$"
    )
    with pytest.raises(DataError, match=message):
        read_as("classify")
    named = read_as({"kind": "classify", "classes": ["a", "b", "c", "zebra"]})
    assert named.classes == ("a", "b", "c", "zebra")
    assert {target for batch in named.validation("held_out", 8) for target in batch.targets_BT.tolist()} == {0, 2, 3}
    of_labels(held_out, ["a", "c"] * 20)
    assert read_as("classify").classes == ("a", "b", "c")


def test_the_domains_that_are_classes_are_those_of_training(notes: Path, animals: Path) -> None:
    def read_as(domain: str, **objective: object) -> Corpus:
        return prepare(
            DataConfig(
                sources=[{"kind": "text", "path": str(notes)}, {"kind": "jsonl", "path": str(animals)}],
                validation={"kind": "text", "path": str(notes), "domain": domain},
                tokenizer="bytes",
                objective={"kind": "classify", "label": "domain", **objective},
            )
        )

    message = (
        r"class 'news', which training has none of \(it has animals, notes\); give the validation source the domain"
    )
    with pytest.raises(DataError, match=message):
        read_as("news")
    assert read_as("notes").classes == ("animals", "notes")
    assert read_as("news", classes=["notes", "news", "animals"]).classes == ("notes", "news", "animals")


def test_a_source_of_one_domain_has_no_two_classes() -> None:
    message = "objective: classify needs two classes at least, and all that a source of kind {} gives is of one domain"
    for source in (
        {"kind": "text", "path": "none/"},
        {"kind": "hf", "name": "none"},
        {"kind": "embedded", "domains": ["code"]},
    ):
        with pytest.raises(ConfigError, match=re.escape(message.format(source["kind"]))):
            DataConfig(sources=source, objective={"kind": "classify", "label": "domain"})
        DataConfig(sources=source, objective={"kind": "classify", "label": "domain", "classes": ["a", "b"]})
        DataConfig(sources=[source, "embedded"], objective={"kind": "classify", "label": "domain"})


@pytest.mark.parametrize(("named", "read"), [([1, 0, -2], ("1", "0", "-2")), ([True, False], ("true", "false"))])
def test_classes_can_be_named_as_sources_give_them(tmp_path: Path, named: list[object], read: tuple[str, ...]) -> None:
    data = corpus(of_labels(tmp_path / "some.jsonl", named * 30), {"kind": "classify", "classes": named})
    assert data.classes == read


@pytest.mark.parametrize("objective", ["causal", "masked", "span_corruption"])
def test_labels_are_for_classifying(objective: str) -> None:
    message = f"objective: {objective} has no use for the labels of a source of kind labelled; take classify, or read"
    with pytest.raises(ConfigError, match=re.escape(message)):
        DataConfig(sources={"kind": "labelled", "path": "none.jsonl"}, objective=objective)


@given(
    documents=st.lists(st.tuples(st.integers(2, 60), st.integers(0, 3)), min_size=1, max_size=20),
    length=st.integers(2, 20),
)
@settings(max_examples=200)
def test_pieces_are_even_and_cover_the_text(documents: list[tuple[int, int]], length: int) -> None:
    sizes = np.array([size for size, _ in documents], dtype=np.uint32)
    labels = np.array([label for _, label in documents])
    rows = Texts(sizes, labels, length, pieces=True)
    expected = []
    begin = 0
    for size, label in documents:
        parts = -(-(size - 1) // (length - 1))
        edges = [begin + 1 + part * (size - 1) // parts for part in range(parts + 1)]
        expected += [(first - (part == 0), last, label) for part, (first, last) in enumerate(pairwise(edges))]
        begin += size
    found = [(*rows.stretch(row), rows.label(row)) for row in range(len(rows))]
    assert found == expected
    assert all(end - begin + (row > 0) <= length + 1 for row, (begin, end, _) in enumerate(found))
    cut = Texts(sizes, labels, length, pieces=False)
    assert [cut.stretch(row)[1] - cut.stretch(row)[0] for row in range(len(cut))] == [min(s, length) for s in sizes]
    assert cut.truncated == int((sizes > length).sum())


def test_long_texts_are_cut_off_and_told_of_or_divided(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": f"{n:03d}" + "xy"[n % 2] * 97, "label": "xy"[n % 2]} for n in range(50)]
    path = write(tmp_path / "long.jsonl", rows)
    cut = corpus(path, length=33)
    assert {len(text) for text, _ in read(cut, "long")} == {32}
    assert any("documents for training are longer than a row and cut off after 33" in told for told in warnings(cut, 9))
    pieces = corpus(path, {"kind": "classify", "long": "pieces"}, length=33)
    assert {len(text) for text, _ in read(pieces, "long")} == {25}
    assert not any("longer than a row" in told for told in warnings(pieces, 9))
    assert pieces.n_training_rows == 4 * cut.n_training_rows


def test_domains_can_be_the_classes(library: Path) -> None:
    objective = {"kind": "classify", "label": "domain", "long": "pieces"}
    data = prepare(DataConfig(tokenizer="bytes", sequence_length=100, objective=objective))
    assert data.classes == ("code", "prose")
    for domain in data.domains:
        for batch in data.validation(domain, 16):
            assert set(batch.targets_BT.tolist()) == {data.classes.index(domain)}
    # Each row is read as often as any other, whatever it is of.
    rows = [len(data.rows(stream)) for stream in data.shards.streams if stream.side == "training"]
    assert data.shares() == pytest.approx([each / sum(rows) for each in rows])


def test_labels_come_through_chunks_and_processes(animals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sublayer.data.chunks.CHUNK", 500)
    monkeypatch.setattr("sublayer.data.build.ALONE", 0)
    monkeypatch.setattr("sublayer.data.build.n_cores", lambda: 2)
    data = corpus(animals)
    assert set(read(data, "animals")) == set(TEXTS.items())


def test_the_fingerprint_knows_the_labels(animals: Path, tmp_path: Path) -> None:
    before = corpus(animals).fingerprint
    rows: list[dict[str, object]] = [{"text": text, "label": label} for text, label in TEXTS.items()]
    assert corpus(write(tmp_path / "animals.jsonl", rows)).fingerprint == before
    rows[3]["label"] = "dog"
    assert corpus(write(tmp_path / "animals.jsonl", rows)).fingerprint != before


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "a"}, "no field 'label' (it has: text)"),
        ({"text": "a", "label": None}, "a field 'label' that holds no label (it is a null)"),
        ({"text": "a", "label": 1.5}, "a field 'label' that holds no label (it is a number)"),
        ({"text": "a", "label": " "}, "a field 'label' that is empty"),
        ({"label": "x"}, "no field 'text' (it has: label)"),
    ],
)
def test_what_is_no_labelled_text_is_named_by_its_line(tmp_path: Path, row: dict[str, object], reason: str) -> None:
    path = write(tmp_path / "animals.jsonl", [{"text": "a", "label": "x"}, row])
    with pytest.raises(DataError, match=re.escape(f"animals.jsonl line 2: {reason}")):
        corpus(path)


def test_one_class_is_none_to_tell(tmp_path: Path) -> None:
    path = write(tmp_path / "same.jsonl", [{"text": f"text {number}", "label": "x"} for number in range(60)])
    with pytest.raises(DataError, match=r"classify needs two classes at least, and all of the data is x\."):
        corpus(path)
    with pytest.raises(DataError, match="the data has the class 'x', which is none of a, b; name it as well"):
        corpus(path, {"kind": "classify", "classes": ["a", "b"]})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "objective: classify learns from labels, and a source of kind embedded gives none; take one of"),
        ({}, "or have the domains be the classes with data.objective.label: domain"),
        ({"objective": {"kind": "classify", "classes": [1, 1.5]}}, "objective.classes[1]: must be a valid string"),
        ({"objective": {"kind": "classify", "classes": ["a"]}}, "objective.classes: must name at least two classes"),
        ({"objective": {"kind": "classify", "classes": ["a", "b", "a"]}}, "objective.classes: must name at least two"),
        ({"objective": {"kind": "classify", "label": "domain"}, "isolate_documents": False}, "isolate_documents: "),
        ({"objective": {"kind": "classify", "label": "domain"}, "sequence_length": 1}, "classify needs rows of at"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        DataConfig(**{"objective": "classify"} | data)


def test_labels_for_some_documents_only_are_refused() -> None:
    @SOURCES.register
    class Half(SourceConfig):
        """Gives a label to every second document."""

        labelled: ClassVar[bool] = True

        kind: Literal["half"] = "half"

        def documents(self, skipped: Skipped) -> Iterator[Document]:
            for number in range(40):
                yield Document(str(number), "half", f"text {number}", label="x" * (number % 2))

        def fingerprint(self) -> str:
            return ""

    with pytest.raises(DataError, match="the half source gives labels to some of its documents only; give each one"):
        prepare(DataConfig(sources="half", tokenizer="bytes", objective="classify"))
