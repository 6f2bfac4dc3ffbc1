"""The interpolated Witten–Bell bigram: what counting pairs of tokens predicts, the first thing a model must beat.

P(w|h) = λ_h · c(h,w)/c(h) + (1−λ_h) · P(w) with λ_h = c(h) / (c(h) + T(h)), T(h) the number of distinct tokens seen
after h; and P(w) = λ · c(w)/c + (1−λ)/V with λ = c / (c + T) likewise.  Witten & Bell 1991, "The zero-frequency
problem", method C; interpolated as in Chen & Goodman 1998, "An empirical study of smoothing techniques for language
modeling", §2 (Witten–Bell smoothing).

Shape suffixes: B batch, T length, V vocabulary, N tokens, P distinct pairs.
"""

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sublayer.data.corpus import Corpus
from sublayer.data.packing import NOT_SCORED, Batch
from sublayer.measures.score import Score

MOST_TOKENS = 50_000_000
"""Tokens counted at most: more would need gigabytes and move the figure little."""


class Bigram:
    """Counts of tokens and of pairs, and the probabilities made from them.

    Args:
        streams: token ids, [N] each; pairs do not reach from one stream into the next.
        vocab_size: V.
    """

    def __init__(self, streams: Iterable[NDArray[Any]], vocab_size: int) -> None:
        self.vocab_size = vocab_size
        count_V = np.zeros(vocab_size, dtype=np.int64)
        first_V = np.zeros(vocab_size, dtype=np.int64)
        pairs: list[NDArray[np.int64]] = []
        for stream_N in streams:
            tokens_N = stream_N.astype(np.int64)
            count_V += np.bincount(tokens_N, minlength=vocab_size)
            first_V += np.bincount(tokens_N[:-1], minlength=vocab_size)
            pairs.append(tokens_N[:-1] * vocab_size + tokens_N[1:])
        self.fitted_tokens = int(count_V.sum())
        self._pair_P, self._count_P = np.unique(np.concatenate(pairs), return_counts=True)
        self._first_V = first_V
        self._followers_V = np.bincount(self._pair_P // vocab_size, minlength=vocab_size)
        seen = int(np.count_nonzero(count_V))
        self._unigram_V = (count_V + seen / vocab_size) / (self.fitted_tokens + seen)

    @classmethod
    def fit(cls, corpus: Corpus, max_tokens: int = MOST_TOKENS) -> Self:
        """Count the training streams of `corpus`, all domains together.

        Args:
            corpus: the data.
            max_tokens: count at most this many; of a larger corpus, evenly spaced stretches of each stream.
        """
        streams = corpus.training_tokens()
        total = sum(len(stream_N) for stream_N in streams)
        if total > max_tokens:
            streams = [stretch_N for stream_N in streams for stretch_N in _thinned(stream_N, max_tokens / total)]
        return cls(streams, corpus.tokenizer.vocab_size)

    def probability(self, history_N: NDArray[np.int64], token_N: NDArray[np.int64]) -> NDArray[np.float64]:
        """P(token | history), elementwise, [N]."""
        pair_N = history_N * self.vocab_size + token_N
        place_N = np.minimum(np.searchsorted(self._pair_P, pair_N), len(self._pair_P) - 1)
        count_N = np.where(self._pair_P[place_N] == pair_N, self._count_P[place_N], 0)
        # λ·c(h,w)/c(h) + (1−λ)·P(w) over one denominator, which also says what an unseen history means: P(w).
        first_N, followers_N = self._first_V[history_N], self._followers_V[history_N]
        unseen_N = first_N == 0
        above_N = count_N + np.where(unseen_N, 1, followers_N) * self._unigram_V[token_N]
        return np.asarray(above_N / np.where(unseen_N, 1, first_N + followers_N), dtype=np.float64)

    def score(self, batches: Iterable[Batch], bytes_per_token: NDArray[np.int64]) -> Score:
        """The loss on every scored target of `batches`, given the input at the same place.

        Args:
            batches: as `Corpus.validation` gives them, so that the same targets count as for the model.
            bytes_per_token: [V], of the tokenizer.
        """
        nats, tokens, size = 0.0, 0, 0
        for batch in batches:
            target_BT = batch.targets_BT.numpy()
            scored_BT = target_BT != NOT_SCORED
            target_N, history_N = target_BT[scored_BT], batch.tokens_BT.numpy()[scored_BT]
            nats -= float(np.log(self.probability(history_N, target_N)).sum())
            tokens += len(target_N)
            size += int(bytes_per_token[target_N].sum())
        return Score(nats, tokens, size)


def bigram_scores(corpus: Corpus, max_tokens: int | None = None, batch_size: int = 64) -> dict[str, Score]:
    """The bigram fitted on the training side of `corpus`, scored on the validation side, by domain.

    Args:
        corpus: the data.
        max_tokens: as for `Corpus.validation`: score about this many tokens of each domain.
        batch_size: rows scored at once.
    """
    model = Bigram.fit(corpus)
    return {
        domain: model.score(corpus.validation(domain, batch_size, max_tokens), corpus.tokenizer.bytes_per_token)
        for domain in corpus.domains
    }


def _thinned(stream_N: NDArray[Any], share: float) -> list[NDArray[Any]]:
    pieces = (stream_N[begin : begin + (1 << 16)] for begin in range(0, len(stream_N), 1 << 16))
    return [piece_N[: max(1, round(len(piece_N) * share))] for piece_N in pieces]
