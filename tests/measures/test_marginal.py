"""How often each target comes: what it predicts, worked out by hand."""

import math
from collections import Counter
from pathlib import Path

import pytest

from sublayer.data import DataConfig, prepare
from sublayer.measures.baselines import baselines_of
from sublayer.measures.marginal import counted, marginal_scores


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.txt").write_text(f"a house of {number} rooms and of {7 * number} doors\n" * 5)
    return folder


def test_it_is_the_frequency_of_each_target_in_training(notes: Path) -> None:
    source = {"kind": "text", "path": str(notes)}
    corpus = prepare(DataConfig(sources=source, tokenizer="bytes", sequence_length=16, objective="masked"))
    rows = corpus.n_training_rows
    came = Counter(target for target in corpus.batch(0, 0, rows).targets_BT.flatten().tolist() if target >= 0)
    count_V = counted(corpus, seed=0)
    assert {token: int(count) for token, count in enumerate(count_V) if count} == came
    assert len(count_V) == corpus.tokenizer.vocab_size == 258
    nats, number, correct = 0.0, 0, 0
    commonest = max(came, key=lambda token: (came[token], -token))
    for batch in corpus.validation("notes", 3):
        for target in batch.targets_BT.flatten().tolist():
            if target >= 0:
                nats -= math.log((came[target] + 1) / (came.total() + 258))
                number += 1
                correct += target == commonest
    score = marginal_scores(corpus)["notes"]
    assert score.loss == pytest.approx(nats / number)
    assert score.accuracy == pytest.approx(correct / number)
    assert score.bits_per_byte is None
    assert 0.05 < correct / number < 0.5
    baseline = baselines_of(corpus)["notes"]
    assert (baseline.marginal, baseline.bigram, baseline.lzma) == (score, None, None)


def test_counting_ends_where_enough_is_counted(notes: Path) -> None:
    source = {"kind": "text", "path": str(notes)}
    corpus = prepare(DataConfig(sources=source, tokenizer="bytes", sequence_length=16, objective="masked"))
    assert 100 <= counted(corpus, 0, most=100).sum() < counted(corpus, 0).sum()
