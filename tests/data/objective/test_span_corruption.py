import re
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sublayer.data import Batch, Corpus, DataConfig, Document, SourceConfig, prepare
from sublayer.data.document import Segment
from sublayer.data.objective.base import Stretch
from sublayer.data.objective.span_corruption import Corrupted, Sizes, SpanCorruptionConfig, _divided
from sublayer.data.packing import NOT_SCORED
from sublayer.data.permutation import mixed
from sublayer.data.skipped import Skipped
from sublayer.data.sources import SOURCES
from sublayer.data.tokenizer import BytesConfig
from sublayer.errors import ConfigError, DataError

END = 0
CONFIG = SpanCorruptionConfig(sentinels=300)
BYTES = BytesConfig().build(lambda: iter(())).with_special([names[0] for names in CONFIG.special_tokens()])
FIRST = BYTES.special_id(["<extra_id_0>"])


def corpus(notes: Path, objective: object = "span_corruption", **data: object) -> Corpus:
    return prepare(
        DataConfig(
            **{"sources": [{"kind": "text", "path": str(notes)}], "tokenizer": "bytes", "sequence_length": 48}
            | {"objective": objective}
            | data
        )
    )


def sides(batch: Batch, row: int, document: int) -> tuple[list[int], list[int], list[int]]:
    """What the encoder reads of a document, what the decoder reads, and what it is to write."""
    source = batch.source
    assert source is not None
    if batch.document_BT is None or source.document_BS is None:
        there, read = torch.ones_like(batch.tokens_BT[row]).bool(), torch.ones_like(source.tokens_BS[row]).bool()
    else:
        there, read = batch.document_BT[row] == document, source.document_BS[row] == document
    if batch.valid_BT is not None:
        there &= batch.valid_BT[row]
    if source.valid_BS is not None:
        read &= source.valid_BS[row]
    tokens, targets = batch.tokens_BT[row][there], batch.targets_BT[row][there]
    return source.tokens_BS[row][read].tolist(), tokens.tolist(), targets.tolist()


def whole(source: list[int], written: list[int]) -> tuple[list[int], list[int]]:
    """The text from its two sides, and how long each stretch left out is."""
    groups: dict[int, list[int]] = {}
    for token in written[:-1]:
        if token >= FIRST:
            groups[token] = last = []
        else:
            last.append(token)
    assert written[-1] == END
    assert [token for token in source if token >= FIRST] == list(groups) == list(range(FIRST, FIRST + len(groups)))
    text: list[int] = []
    for token in source:
        text += groups[token] if token >= FIRST else [token]
    return text, [len(group) for group in groups.values()]


@given(
    documents=st.lists(st.integers(1, 90), min_size=1, max_size=6),
    share=st.floats(0.05, 0.6),
    mean=st.floats(1, 6),
    seed=st.integers(0, 2**60),
)
@settings(max_examples=150)
def test_both_sides_together_are_the_text(documents: list[int], share: float, mean: float, seed: int) -> None:
    config = SpanCorruptionConfig(share=share, mean_length=mean, sentinels=300)
    objective = config.build(BYTES, 64, True)
    sizes = Sizes(config, 64)
    stream = np.concatenate([[END, *range(1, size)] for size in documents]).astype(np.uint16)
    shape = config.shape(64, True)
    rows = Corrupted(np.array(documents, dtype=np.uint32), sizes, 64, shape.length)
    stretches = [Stretch(stream[begin:end], None, -1) for begin, end in map(rows.stretch, range(len(rows)))]
    if not stretches:
        assert max(documents) == 1
        return
    batch = objective.batch(stretches, mixed(seed, np.arange(len(stretches), dtype=np.uint64)))
    assert batch.source is not None
    assert batch.source.tokens_BS.shape == (len(rows), 64)
    assert batch.tokens_BT.shape == batch.targets_BT.shape == (len(rows), shape.length)
    filled = 0
    for row, stretch in enumerate(stretches):
        begins = [place for place, token in enumerate(stretch.tokens) if place == 0 or token == END]
        for document, (begin, end) in enumerate(zip(begins, [*begins[1:], len(stretch.tokens)], strict=True)):
            source, inputs, targets = sides(batch, row, document)
            size = end - begin
            filled += len(source) + len(inputs)
            if size == 1:
                assert (source, inputs, targets) == ([stretch.tokens[begin]], [], [])
                continue
            assert inputs == [END, *targets[:-1]]
            text, lengths = whole(source, targets)
            assert text == stretch.tokens[begin:end].tolist()
            noise = min(max(round(size * share), 1), size - 1)
            spans = min(max(round(noise / mean), 1), noise, size - noise)
            assert (sum(lengths), len(lengths)) == (noise, spans)
            assert source[0] == stretch.tokens[begin]  # what stays begins
        if batch.valid_BT is not None:
            assert (batch.targets_BT[row][~batch.valid_BT[row]] == NOT_SCORED).all()
    assert rows.filled == filled
    # Rows that follow one another leave nothing out but single tokens that stand alone.
    covered = sum(len(stretch.tokens) for stretch in stretches)
    assert len(stream) - covered <= rows.left_out


@pytest.mark.parametrize(("number", "parts"), [(6, 3), (5, 1), (4, 4), (7, 2)])
def test_every_way_to_divide_is_as_likely(number: int, parts: int) -> None:
    found = Counter(tuple(_divided(number, parts, mixed(1, draw)).tolist()) for draw in range(4000))
    assert all(sum(way) == number and len(way) == parts and min(way) >= 1 for way in found)
    ways = {(6, 3): 10, (5, 1): 1, (4, 4): 1, (7, 2): 6}[number, parts]
    assert len(found) == ways
    assert max(found.values()) < 1.25 * 4000 / ways


def test_a_row_of_one_text_has_the_published_lengths() -> None:
    """T5 reads 512 tokens and writes 114: 568 tokens of text, 85 left out in 28 stretches, less the end token that it
    puts behind the source (`random_spans_helper` of its code)."""
    sizes = Sizes(SpanCorruptionConfig(), 511)
    assert len(sizes.noise_L) - 1 == 568
    assert (sizes.noise_L[-1], sizes.spans_L[-1], sizes.source_L[-1], sizes.target_L[-1]) == (85, 28, 511, 114)


def test_without_isolation_a_row_is_one_text_and_nothing_is_padded(notes: Path) -> None:
    data = corpus(notes, isolate_documents=False)
    batch = data.batch(0, 0, 20)
    assert batch.source is not None
    assert batch.source.valid_BS is None and batch.valid_BT is None
    assert batch.source.document_BS is None and batch.document_BT is None
    (stream,) = data.training_tokens()
    length = len(Sizes(SpanCorruptionConfig(), 48).noise_L) - 1
    rows = {tuple(stream[first : first + length].tolist()) for first in range(0, len(stream) - length + 1, length)}
    texts = [whole(*sides(batch, row, 0)[::2])[0] for row in range(20)]
    assert {tuple(text) for text in texts} <= rows


def test_little_is_padded(notes: Path) -> None:
    data = corpus(notes, sequence_length=256)
    streams = [stream for stream in data.shards.streams if stream.side == "training"]
    filled = sum(data.rows(stream).filled for stream in streams)
    places = data.n_training_rows * data.config.row_shape().places
    assert filled / places > 0.93
    assert data.batch(0, 0, 30).n_tokens == 30 * data.config.row_shape().places


def test_a_draw_depends_on_the_sample_alone_and_each_epoch_has_its_own(notes: Path) -> None:
    data = corpus(notes)
    whole_batch, parts = data.batch(3, 10, 6), [data.batch(3, 10 + first, 2) for first in (0, 2, 4)]
    assert torch.equal(whole_batch.targets_BT, torch.cat([part.targets_BT for part in parts]))
    rows = data.n_training_rows
    first, second = data.batch(0, 0, rows), data.batch(0, rows, rows)
    assert first.source is not None and second.source is not None
    texts = [[tuple(map(tuple, row.tolist())) for row in batch.source.tokens_BS[:, None]] for batch in (first, second)]
    assert len(set(texts[0]) & set(texts[1])) < 0.05 * rows
    once, twice = (list(data.validation("notes", size)) for size in (4, 7))
    assert torch.equal(torch.cat([b.targets_BT for b in once]), torch.cat([b.targets_BT for b in twice]))


def test_stretches_have_their_mean_length(notes: Path) -> None:
    data = corpus(notes, {"kind": "span_corruption", "share": 0.3, "mean_length": 4}, sequence_length=200)
    batch = data.batch(0, 0, 40)
    lengths = []
    for row in range(40):
        runs = groupby(batch.targets_BT[row].tolist(), key=lambda token: 0 < token < FIRST)
        lengths += [len(list(run)) for is_text, run in runs if is_text]
    assert np.mean(lengths) == pytest.approx(4, rel=0.1)
    assert max(lengths) > 8


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"sequence_length": 4096},
            "objective: sentinels are 100, and a row of 4096 tokens needs 228; raise data.objective.sentinels or",
        ),
        (
            {"objective": {"kind": "span_corruption", "mean_length": 1e12}},
            "objective: mean_length is 1e+12, and a row has 256 tokens; lower data.objective.mean_length",
        ),
        ({"objective": {"kind": "span_corruption", "mean_length": 1e300}}, "objective: mean_length is 1e+300, and a"),
        ({"sequence_length": 1}, "objective: span_corruption needs rows of at least 2 tokens"),
        ({"objective": {"kind": "span_corruption", "mean_length": 0.5}}, "objective.mean_length: must be greater"),
        ({"objective": {"kind": "span_corruption", "target_length": 2}}, "objective.target_length: must be greater"),
    ],
)
def test_what_is_wrong_is_one_sentence(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        DataConfig(**{"objective": "span_corruption"} | data)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pairs", "leaves out stretches of plain text, and a source of kind pairs gives none; take seq2seq for pairs"),
        ("chat", "leaves out stretches of plain text, and a source of kind chat gives none; take seq2seq for pairs"),
        ("labelled", "has no use for the labels of a source of kind labelled; take classify, or read the text with"),
    ],
)
@pytest.mark.parametrize("key", ["sources", "validation"])
def test_what_is_no_plain_text_is_refused_before_it_is_read(kind: str, message: str, key: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"objective: span_corruption {message}")):
        DataConfig(**{key: {"kind": kind, "path": "there_is_none.jsonl"}, "objective": "span_corruption"})


def test_documents_in_segments_of_a_source_that_does_not_say_so_are_refused() -> None:
    @SOURCES.register
    class Unsaid(SourceConfig):
        """Gives pairs and does not say so."""

        kind: Literal["unsaid"] = "unsaid"

        def documents(self, skipped: Skipped) -> Iterator[Document]:
            for number in range(40):
                yield Document(str(number), "unsaid", segments=(Segment("a", scored=False), Segment("b" * number)))

        def fingerprint(self) -> str:
            return ""

    with pytest.raises(DataError, match="plain text, and 'unsaid' holds documents in segments; name sources of text"):
        prepare(DataConfig(sources="unsaid", tokenizer="bytes", objective="span_corruption"))


def test_the_shortest_rows_go_with_the_defaults() -> None:
    assert DataConfig(objective="span_corruption", sequence_length=2).row_shape().source_length == 2


def test_the_tokenizer_has_the_sentinels(notes: Path) -> None:
    data = corpus(notes, tokenizer={"kind": "bpe", "vocab_size": 300})
    assert data.tokenizer.vocab_size == data.config.expected_vocabulary() == 400
    assert [data.tokenizer.name(300 + number) for number in (0, 99)] == ["<extra_id_0>", "<extra_id_99>"]
