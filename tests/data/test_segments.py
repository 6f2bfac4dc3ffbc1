"""Documents in segments: what is learnt of them, and how they are packed."""

from collections.abc import Iterator
from typing import Literal

import pytest
import torch

import sublayer.data.build as build_module
from sublayer.data import DataConfig, Document, SourceConfig, prepare
from sublayer.data.corpus import Corpus
from sublayer.data.document import END_MARK, Segment
from sublayer.data.reading import epochs_in_words, warnings
from sublayer.data.skipped import Skipped
from sublayer.data.tokenizing import BEGINS, SCORED
from sublayer.errors import DataError
from sublayer.registry import register

LENGTH = 48


class QuestionsConfig(SourceConfig):
    """Questions that are not learnt, and answers that are."""

    kind: Literal["questions"] = "questions"
    n_documents: int = 200
    longest: int = 3

    def documents(self, skipped: Skipped) -> Iterator[Document]:
        for number in range(self.n_documents):
            segments = (
                Segment("Q: ", scored=False, special=True),
                Segment(f"what is {number} <|endoftext|>" + " ?" * (number % self.longest), scored=False),
                Segment("\nA: ", scored=False, special=True),
                Segment(f"{number}" * (1 + number % 3)),
                Segment(END_MARK, special=True),
                Segment("\n", scored=False, special=True),
            )
            yield Document(f"line {number}", "questions", segments=segments)

    def fingerprint(self) -> str:
        return f"{self.n_documents} {self.longest}"


@pytest.fixture(autouse=True)
def registered(registries: None) -> None:
    register(QuestionsConfig)


def corpus(**values: object) -> Corpus:
    source = {"kind": "questions", **values}
    return prepare(DataConfig(sources=source, tokenizer="bytes", sequence_length=LENGTH))


def answers(corpus: Corpus) -> set[bytes]:
    return {f"{number}".encode() * (1 + number % 3) for number in range(200)}


def test_only_answers_and_their_ends_are_scored() -> None:
    made = corpus()
    batches = [*made.validation("questions", 4), *(made.batch(0, first, 8) for first in range(0, 240, 8))]
    seen = set()
    for batch in batches:
        for targets in batch.targets_BT.tolist():
            kept = [target for target in targets if target >= 0]
            assert kept[-1] == made.tokenizer.end_id
            for answer in made.tokenizer.decode(
                [made.tokenizer.encode("|", start=False)[0] if t == made.tokenizer.end_id else t for t in kept]
            ).split("|")[:-1]:
                assert answer.encode() in answers(made)
                seen.add(answer)
    assert len(seen) > 100
    scored = sum(int((batch.targets_BT >= 0).sum()) for batch in made.validation("questions", 4))
    (stream,) = (stream for stream in made.shards.streams if stream.side == "validation")
    assert scored == stream.scored
    assert b"".join(made.validation_text("questions", scored=True)).isdigit()
    assert b"what is" in b"".join(made.validation_text("questions"))
    whole = b"".join(made.training_text("questions", scored=True))
    assert whole.endswith(b"".join(made.training_text("questions", 20, scored=True)))


def test_rows_hold_whole_documents() -> None:
    made = corpus()
    for batch in made.validation("questions", 4):
        assert batch.document_BT is not None
        assert batch.positions_BT is not None
        assert batch.valid_BT is not None
        for row in range(len(batch.tokens_BT)):
            valid = int(batch.valid_BT[row].sum())
            text = made.tokenizer.decode(batch.tokens_BT[row, :valid].tolist())
            assert text.startswith("Q: ")
            starts = torch.nonzero(batch.positions_BT[row, :valid] == 0).flatten().tolist()
            assert len(starts) == text.count("Q: ") == batch.document_BT[row, valid - 1] + 1
            assert all(batch.tokens_BT[row, start] == made.tokenizer.end_id for start in starts)
            assert text.count("Q: ") == text.count("A: ")


def test_the_end_token_stands_inside_a_document_and_text_never_is_one() -> None:
    made = corpus()
    for stream in made.shards.streams:
        tokens, marks = made.shards.tokens(stream), made.shards.marks(stream)
        assert marks is not None
        begins = marks & BEGINS > 0
        assert begins.sum() == stream.documents
        assert (tokens[begins] == made.tokenizer.end_id).all()
        assert not (marks[begins] & SCORED).any()
        assert (tokens == made.tokenizer.end_id).sum() == 2 * stream.documents
        assert (tokens[marks & SCORED > 0] == made.tokenizer.end_id).sum() == stream.documents
        assert made.shards.documents(stream, "lengths").sum() == stream.tokens
        assert made.shards.documents(stream, "scored").sum() == stream.scored == (marks & SCORED).sum()


def test_long_ones_are_cut_off_and_told_of() -> None:
    made = corpus(longest=12)
    training, validation = warnings(made, 1)
    assert "documents for validation are longer than a row" in validation
    assert "documents for training are longer than a row and cut off after 49 tokens" in training
    (stream,) = (stream for stream in made.shards.streams if stream.side == "training")
    rows = made.rows(stream)
    assert rows.truncated > 0
    assert rows.left_out > 0
    for first in range(0, len(rows), 8):
        batch = made.batch(0, first, 8)
        assert ((batch.targets_BT >= 0).sum(1) > 0).all()


def test_a_row_too_short_for_any_answer() -> None:
    with pytest.raises(DataError, match=r"'questions' has anything to learn in its first 9 tokens; raise data\.seq"):
        prepare(DataConfig(sources="questions", tokenizer="bytes", sequence_length=8))


def test_they_mix_with_plain_text_in_one_batch(notes: object) -> None:
    sources = [{"kind": "questions", "weight": 1.0}, {"kind": "text", "path": str(notes), "weight": 3.0}]
    made = prepare(DataConfig(sources=sources, tokenizer="bytes", sequence_length=LENGTH))
    batch = made.batch(0, 0, 64)
    questions = [row for row in batch.tokens_BT.tolist() if "Q: " in made.tokenizer.decode(row)]
    assert len(questions) == 16
    assert made.batch(0, 3, 1).tokens_BT.tolist()[0] == batch.tokens_BT[3].tolist()


def test_learning_and_processes_see_them_too(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    config = DataConfig(sources="questions", tokenizer={"kind": "bpe", "vocab_size": 300}, sequence_length=LENGTH)
    alone = prepare(config, cache=tmp_path / "one")  # type: ignore[operator]
    assert "\ue000" not in alone.shards.directory.joinpath("tokenizer.json").read_text(encoding="utf-8")
    monkeypatch.setattr("sublayer.data.chunks.CHUNK", 2000)
    monkeypatch.setattr(build_module, "ALONE", 0)
    monkeypatch.setattr(build_module, "n_cores", lambda: 2)
    assert prepare(config, cache=tmp_path / "two").fingerprint == alone.fingerprint  # type: ignore[operator]


def test_times_read_are_told(notes: object) -> None:
    sources = [{"kind": "questions", "weight": 1.0}, {"kind": "text", "path": str(notes), "weight": 3.0}]
    made = prepare(DataConfig(sources=sources, tokenizer="bytes", sequence_length=LENGTH))
    rows = [
        sum(len(made.rows(s)) for s in made.shards.streams if (s.source, s.side) == (n, "training")) for n in (0, 1)
    ]
    assert made.epochs(rows[0] * 4) == pytest.approx([1.0, 3 * rows[0] / rows[1]])
    assert epochs_in_words(made, rows[0] * 4).startswith("reads questions 1.0 times, notes 0.")
    assert warnings(made, rows[0] * 16) == []
    (told,) = warnings(made, rows[0] * 20)
    assert told.startswith("questions is read 5.0 times, where more than 4 readings gain little")
    drawn = [made.batch(0, first, 64) for first in range(0, rows[0] * 4 // 64 * 64, 64)]
    questions = sum("Q: " in made.tokenizer.decode(row) for batch in drawn for row in batch.tokens_BT.tolist())
    assert abs(questions - sum(len(batch.tokens_BT) for batch in drawn) / 4) <= 1


def test_a_name_used_twice_is_told_by_number(notes: object) -> None:
    sources = [{"kind": "text", "path": str(notes), "domain": "a"}, {"kind": "text", "path": str(notes), "domain": "a"}]
    made = prepare(DataConfig(sources=sources, tokenizer="bytes", sequence_length=LENGTH))
    assert "a (source 1)" in epochs_in_words(made, 10)
