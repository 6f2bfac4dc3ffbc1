import math
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from sublayer.data import Batch, DataConfig, prepare
from sublayer.measures.bigram import Bigram, bigram_scores
from sublayer.measures.score import Score


def ids(*tokens: int) -> np.ndarray:
    return np.array(tokens)


def test_by_hand() -> None:
    # 0 1 0 1 0 2 over V = 4: c = 6, T = 3, so P(w) = (c(w) + 3/4) / 9.
    # After 0: 1 twice and 2 once, c(0) = 3, T(0) = 2.  After 1: 0 twice, c(1) = 2, T(1) = 1.
    model = Bigram([ids(0, 1, 0, 1, 0, 2).astype(np.uint16)], 4)
    unigram = [3.75 / 9, 2.75 / 9, 1.75 / 9, 0.75 / 9]
    expected = {
        (0, 1): 3 / 5 * 2 / 3 + 2 / 5 * unigram[1],
        (0, 2): 3 / 5 * 1 / 3 + 2 / 5 * unigram[2],
        (0, 3): 2 / 5 * unigram[3],
        (1, 0): 2 / 3 + 1 / 3 * unigram[0],
        (1, 1): 1 / 3 * unigram[1],
        (2, 0): unigram[0],  # never followed by anything
        (3, 3): unigram[3],  # never seen
    }
    for (history, token), probability in expected.items():
        assert model.probability(ids(history), ids(token))[0] == pytest.approx(probability, rel=1e-12)


def test_probabilities_sum_to_one() -> None:
    size = 23
    draw = np.random.default_rng(0)
    model = Bigram([draw.zipf(1.5, 300).clip(max=size - 1), draw.integers(0, size // 2, 50)], size)
    for history in range(size):
        assert model.probability(np.full(size, history), np.arange(size)).sum() == pytest.approx(1.0, abs=1e-12)


def test_pairs_do_not_reach_across_streams() -> None:
    apart, together = Bigram([ids(0, 1), ids(2, 1)], 3), Bigram([ids(0, 1, 2, 1)], 3)
    assert apart.probability(ids(1), ids(2))[0] == pytest.approx((1 + 3 / 3) / 7)  # no more than P(2)
    assert together.probability(ids(1), ids(2))[0] > 0.5


def test_scores_count_the_targets_that_are_scored() -> None:
    model = Bigram([ids(0, 1, 0, 1, 0, 2)], 4)
    batch = Batch(torch.tensor([[0, 1, 3]]), torch.tensor([[1, 0, -100]]), None, None, None)
    score = model.score([batch, batch], np.array([0, 2, 3, 5]))
    nats = -math.log(model.probability(ids(0), ids(1))[0]) - math.log(model.probability(ids(1), ids(0))[0])
    assert score.nats == pytest.approx(2 * nats)
    assert (score.tokens, score.bytes) == (4, 4)
    assert score.loss == pytest.approx(nats / 2)
    assert score.bits_per_byte == pytest.approx(nats / 2 / math.log(2))


def test_it_is_the_plain_formula_on_a_corpus(tmp_path: Path) -> None:
    draw = random.Random(0)
    words = ["some", "words", "of", "a", "small", "text", "about", "nothing"]
    (tmp_path / "a.txt").write_text("".join(" ".join(draw.choices(words, k=8)) + "\n" for _ in range(300)))
    corpus = prepare(
        DataConfig(
            sources={"kind": "text", "path": str(tmp_path / "a.txt")},
            tokenizer={"kind": "bpe", "vocab_size": 280},
            sequence_length=16,
        )
    )
    (training,) = (stream.tolist() for stream in corpus.training_tokens())
    size = corpus.tokenizer.vocab_size
    count, pair, first = Counter(training), Counter(pairwise(training)), Counter(training[:-1])
    followers = Counter(history for history, _ in pair)

    def probability(history: int, token: int) -> float:
        weight = len(training) / (len(training) + len(count))
        unigram = weight * count[token] / len(training) + (1 - weight) / size
        if not first[history]:
            return unigram
        weight = first[history] / (first[history] + followers[history])
        return weight * pair[history, token] / first[history] + (1 - weight) * unigram

    nats, tokens = 0.0, 0
    for batch in corpus.validation("a", 3):
        for history, token in zip(batch.tokens_BT.flatten().tolist(), batch.targets_BT.flatten().tolist(), strict=True):
            if token != -100:
                nats -= math.log(probability(history, token))
                tokens += 1
    score = bigram_scores(corpus)["a"]
    assert score.nats == pytest.approx(nats)
    assert score.tokens == tokens
    assert score.bytes == corpus.describe()["a"]["validation"]["bytes"]
    assert bigram_scores(corpus, max_tokens=32)["a"].tokens == 32


def test_a_large_corpus_is_counted_in_part(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some words of a small text\n" * 400)
    corpus = prepare(DataConfig(sources={"kind": "text", "path": str(tmp_path / "a.txt")}, tokenizer="bytes"))
    total = sum(len(stream) for stream in corpus.training_tokens())
    assert Bigram.fit(corpus).fitted_tokens == total
    assert Bigram.fit(corpus, max_tokens=total // 2).fitted_tokens == pytest.approx(total / 2, rel=0.01)


def test_a_score_in_both_units() -> None:
    assert Score(nats=8 * math.log(2), tokens=2, bytes=4).bits_per_byte == pytest.approx(2.0)
