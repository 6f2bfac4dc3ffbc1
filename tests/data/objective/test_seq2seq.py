import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sublayer.data import Corpus, DataConfig, prepare
from sublayer.data.objective.seq2seq import Pairs
from sublayer.data.packing import NOT_SCORED
from sublayer.data.reading import warnings
from sublayer.errors import ConfigError


def write(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.write_text("".join(json.dumps({"source": source, "target": target}) + "\n" for source, target in rows))
    return path


ROWS = [(f"word {number} " * (number % 5), f"{number}!" * (1 + number % 7)) for number in range(200)]


def corpus(path: Path, source: int = 64, target: int | None = 24, **data: object) -> Corpus:
    return prepare(
        DataConfig(
            sources={"kind": "pairs", "path": str(path)},
            tokenizer="bytes",
            sequence_length=source,
            objective={"kind": "seq2seq", "target_length": target},
            **data,
        )
    )


def read(data: Corpus, side: str) -> dict[str, str]:
    """Source → target of every pair that rows hold; what a batch says is checked on the way."""
    if side == "training":
        batches = [data.batch(0, 0, data.n_training_rows + 64)]  # the order is drawn in blocks of 64
    else:
        batches = list(data.validation("pairs", 3))
    found = {}
    for batch in batches:
        source = batch.source
        assert source is not None and source.document_BS is not None and source.positions_BS is not None
        assert batch.document_BT is not None and batch.positions_BT is not None
        for row in range(len(batch.tokens_BT)):
            valid = batch.valid_BT[row] if batch.valid_BT is not None else torch.ones_like(batch.tokens_BT[row]).bool()
            reads = (
                source.valid_BS[row] if source.valid_BS is not None else torch.ones_like(source.tokens_BS[row]).bool()
            )
            assert (batch.targets_BT[row][~valid] == NOT_SCORED).all()
            for document in batch.document_BT[row][valid].unique().tolist():
                there, given = (
                    (batch.document_BT[row] == document) & valid,
                    (source.document_BS[row] == document) & reads,
                )
                inputs, targets = batch.tokens_BT[row][there].tolist(), batch.targets_BT[row][there].tolist()
                tokens = source.tokens_BS[row][given].tolist()
                assert inputs == [data.tokenizer.end_id, *targets[:-1]]
                assert tokens[0] == data.tokenizer.end_id
                assert batch.positions_BT[row][there].tolist() == list(range(len(inputs)))
                assert source.positions_BS[row][given].tolist() == list(range(len(tokens)))
                found[data.tokenizer.decode(tokens)] = data.tokenizer.decode(targets)
            # The documents of both sides are the same ones.
            assert source.document_BS[row][reads].unique().tolist() == batch.document_BT[row][valid].unique().tolist()
    return found


def test_every_pair_is_read_whole_and_on_both_sides(tmp_path: Path) -> None:
    rows = [(f"{number}: {source}", target) for number, (source, target) in enumerate(ROWS)]
    data = corpus(write(tmp_path / "pairs.jsonl", rows), target=40)
    training, held_out = read(data, "training"), read(data, "validation")
    assert not set(training) & set(held_out)
    assert training | held_out == dict(rows)
    assert len(held_out) >= 2
    assert data.n_training_rows < 0.6 * len(training)  # several in a row


@given(
    pairs=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 9)), min_size=1, max_size=30),
    source=st.integers(1, 12),
    target=st.integers(1, 9),
)
@settings(max_examples=200)
def test_rows_are_what_a_loop_would_pack(pairs: list[tuple[int, int]], source: int, target: int) -> None:
    lengths = np.array([sum(pair) for pair in pairs], dtype=np.uint32)
    rows = Pairs(lengths, np.array([scored for _, scored in pairs], dtype=np.uint32), source, target)
    expected: list[list[int]] = []
    used = [0, 0]
    at = 0
    for given_, wanted in pairs:
        fits = used[0] + given_ <= source and used[1] + wanted <= target
        if not expected or not fits:
            expected.append([at, at])
            used = [0, 0]
        used = [used[0] + given_, used[1] + wanted]
        at += given_ + wanted
        expected[-1][1] = at
    assert [list(rows.stretch(row)) for row in range(len(rows))] == expected
    assert rows.truncated == sum(given_ > source or wanted > target for given_, wanted in pairs)
    assert rows.filled == sum(min(given_, source) + min(wanted, target) for given_, wanted in pairs)


def test_what_is_too_long_is_cut_counted_and_told(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", [*ROWS, ("x" * 100, "short"), ("short", "y" * 100)])
    data = corpus(path, target=40, validation={"kind": "pairs", "path": str(path)})
    training = read(data, "training")
    assert training["x" * 63] == "short"
    assert training["short"] == "y" * 40
    assert any("2 of 202 pairs for training are longer than a row" in warning for warning in warnings(data, 100))


def test_the_separator_stands_between_them_for_one_reader_only(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", ROWS)
    apart = corpus(path)
    joined = prepare(DataConfig(sources={"kind": "pairs", "path": str(path)}, tokenizer="bytes", sequence_length=64))
    assert apart.shards.directory != joined.shards.directory
    assert b"\n" in b"".join(joined.training_text("pairs"))
    assert b"\n" not in b"".join(apart.training_text("pairs"))
    with pytest.raises(ConfigError, match="objective: a separator of pairs has no effect where an encoder reads"):
        DataConfig(sources={"kind": "pairs", "path": str(path), "separator": " = "}, objective="seq2seq")


def test_text_is_refused() -> None:
    message = (
        "objective: seq2seq learns from pairs of texts, and a source of kind embedded gives none; take one of kind"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        DataConfig(objective="seq2seq")
