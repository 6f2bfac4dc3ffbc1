"""What a model's held-out loss is set beside: a bigram model and a compressor, or the targets' own frequencies."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from sublayer.data import Corpus
from sublayer.measures.bigram import bigram_scores
from sublayer.measures.compression import Compression, compression_scores
from sublayer.measures.marginal import marginal_scores
from sublayer.measures.score import Score

R = TypeVar("R")


@dataclass(frozen=True)
class Baseline:
    """The figures of one domain.

    Attributes:
        bigram, lzma: of the next token.
        marginal: of any other objective.
    """

    bigram: Score | None = None
    lzma: Compression | None = None
    marginal: Score | None = None

    @property
    def loss(self) -> float | None:
        """Nats a target, of the one that tells them."""
        told = self.bigram or self.marginal
        return None if told is None else told.loss


def baselines_of(corpus: Corpus) -> Mapping[str, Baseline]:
    """The baselines on the held-out text of each domain, in a few seconds for ten million bytes of text."""
    if corpus.config.objective.null == "marginal":
        return {domain: Baseline(marginal=score) for domain, score in marginal_scores(corpus).items()}
    bigrams, compressions = bigram_scores(corpus), compression_scores(corpus)
    return {domain: Baseline(bigrams[domain], compressions[domain]) for domain in corpus.domains}


class Later(Generic[R]):
    """A value computed in a thread of its own, beside training; numpy and lzma let go of Python's lock.

    Args:
        compute: called once, at once.
    """

    def __init__(self, compute: Callable[[], R]) -> None:
        self._value: list[R] = []
        self._error: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(compute,), daemon=True)
        self._thread.start()

    def _run(self, compute: Callable[[], R]) -> None:
        try:
            self._value.append(compute())
        except BaseException as error:
            self._error.append(error)

    def result(self) -> R:
        """The value, waited for; what the computation raised is raised here."""
        self._thread.join()
        if self._error:
            raise self._error[0]
        return self._value[0]
