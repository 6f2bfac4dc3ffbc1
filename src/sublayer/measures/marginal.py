"""What the targets predict by themselves: how often each came in training, whatever the input.

The null of every objective: a model that learnt nothing from its inputs can do no better.  P(y) = (c(y) + 1) / (c + V),
c(y) how often y was a target (Laplace's rule of succession), V how many there can be.

Shape suffixes: V vocabulary or classes, N targets.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from sublayer.data.corpus import Corpus
from sublayer.data.packing import NOT_SCORED, Batch
from sublayer.measures.score import Score

MOST_TARGETS = 500_000
"""Targets of the training that are counted at most: more would move no figure."""

ROWS = 64
"""Rows read at once."""


def marginal_scores(corpus: Corpus, seed: int = 0) -> dict[str, Score]:
    """The loss and the accuracy of the targets' own frequencies on the validation side of `corpus`, by domain.

    Args:
        corpus: the data.
        seed: of the data order, whose first epoch is counted.
    """
    count_V = counted(corpus, seed)
    probability_V = (count_V + 1) / (count_V.sum() + len(count_V))
    answer = int(count_V.argmax())
    return {domain: _scored(probability_V, answer, corpus.validation(domain, ROWS)) for domain in corpus.domains}


def counted(corpus: Corpus, seed: int, most: int = MOST_TARGETS) -> NDArray[np.int64]:
    """How often each target comes in the first epoch of training, or in about its first `most` targets, [V]."""
    count_V = np.zeros(corpus.n_answers, dtype=np.int64)
    first, rows = 0, corpus.n_training_rows
    while first < rows and count_V.sum() < most:
        size = min(ROWS, rows - first)
        count_V += np.bincount(_targets(corpus.batch(seed, first, size)), minlength=len(count_V))
        first += size
    return count_V


def _scored(probability_V: NDArray[np.float64], answer: int, batches: Iterable[Batch]) -> Score:
    nats, number, correct = 0.0, 0, 0
    for batch in batches:
        target_N = _targets(batch)
        nats -= float(np.log(probability_V[target_N]).sum())
        number += len(target_N)
        correct += int((target_N == answer).sum())
    return Score(nats, number, correct=correct)


def _targets(batch: Batch) -> NDArray[np.int64]:
    targets_N: NDArray[np.int64] = batch.targets_BT[batch.targets_BT != NOT_SCORED].numpy()
    return targets_N
