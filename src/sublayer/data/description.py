"""What a corpus is made of, in figures: what `sublayer data` tells.

Shape suffixes: D documents.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sublayer.data.corpus import Corpus
from sublayer.data.shards import Shards, TokenStream
from sublayer.data.split import SIDES, Side

EXAMPLES = 3
"""Pairs of equal documents that are named."""


@dataclass(frozen=True, slots=True)
class SideFigures:
    """One side of a domain.

    Attributes:
        domain: its name.
        side: training or validation.
        documents: how many documents.
        tokens: how many tokens, with the one that begins each document.
        bytes: of the text that they stand for.
        bytes_per_token: bytes over tokens, those that begin documents left out.
        segments: whether any document came in segments, so that rows hold whole documents.
        scored_tokens: how many are targets of the loss.
        rows: of `sequence_length` tokens (and, for an encoder-decoder, those of the other side), padding counted.
        padding: the share of the rows that is padding.
        truncated: documents longer than a row that are cut off, which happens to documents in segments only.
        left_out: rows of such documents in which nothing would be scored.
    """

    domain: str
    side: Side
    documents: int
    tokens: int
    bytes: int
    bytes_per_token: float
    segments: bool
    scored_tokens: int
    rows: int
    padding: float
    truncated: int
    left_out: int


@dataclass(frozen=True, slots=True)
class SourceFigures:
    """One source of the training.

    Attributes:
        source: its number in `data.sources`.
        kind: its kind.
        domains: the domains it has on the training side.
        weight: as configured.
        share: of the training.
        epochs: how many times training reads it; None where the number of steps is not known.
        skipped: what it passed by: reason → how many.
        first_skipped: reason → the place of the first one.
    """

    source: int
    kind: str
    domains: list[str]
    weight: float
    share: float
    epochs: float | None
    skipped: dict[str, int]
    first_skipped: dict[str, str]


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long the documents of a domain are, both sides together.

    Attributes:
        domain: its name.
        median: in tokens.
        mean: in tokens.
        longest: in tokens.
        at_least: the shortest length that each bin counts: 1, 2, 4, 8, …
        documents: how many documents each bin counts.
    """

    domain: str
    median: float
    mean: float
    longest: int
    at_least: list[int]
    documents: list[int]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two documents of the same text: the domain and the name of each."""

    domain: str
    document: str
    same_as_domain: str
    same_as: str


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Whole documents whose text, told by its hash, another one has as well.

    Attributes:
        documents: how many, the first of each text left out.
        share_of_bytes: of the text of that side.
        examples: a few.
    """

    documents: int
    share_of_bytes: float
    examples: list[Pair]


@dataclass(frozen=True, slots=True)
class Description:
    """All figures of a corpus.

    Attributes:
        fingerprint: of the tokens.
        tokenizer: its kind and its number of tokens.
        sequence_length: T.
        sides: by domain and side.
        shares: domain → share of the training.
        sources: of the training.
        lengths: by domain.
        duplicates: documents of the training that come again there.
        leakage: held-out documents that stand in the training as well.
        skipped_in_validation: what the sources of `data.validation` passed by: reason → how many.
    """

    fingerprint: str
    tokenizer: dict[str, Any]
    sequence_length: int
    sides: list[SideFigures]
    shares: dict[str, float]
    sources: list[SourceFigures]
    lengths: list[Lengths]
    duplicates: Duplicates
    leakage: Duplicates
    skipped_in_validation: dict[str, int]

    def tree(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def describe(corpus: Corpus, n_samples: int | None = None) -> Description:
    """The figures of a corpus; no text is read again.

    Args:
        corpus: made ready.
        n_samples: rows that training reads, steps times batch size, where that is known.
    """
    streams, config = corpus.shards.streams, corpus.config
    training = [stream for stream in streams if stream.side == "training"]
    validation = [stream for stream in streams if stream.side == "validation"]
    domains = sorted({stream.domain for stream in streams})
    shares = dict.fromkeys(sorted({stream.domain for stream in training}), 0.0)
    of_source = [0.0] * len(config.sources)
    for stream, share in zip(training, corpus.shares(), strict=True):
        shares[stream.domain] += share
        of_source[stream.source] += share
    epochs = corpus.epochs(n_samples) if n_samples is not None else [None] * len(config.sources)
    in_validation: dict[str, int] = {}
    for skipped in corpus.shards.skipped[len(config.sources) :]:
        for reason, count in skipped.counts.items():
            in_validation[reason] = in_validation.get(reason, 0) + count
    return Description(
        fingerprint=corpus.fingerprint,
        tokenizer={"kind": config.tokenizer.kind_name(), "vocab_size": corpus.tokenizer.vocab_size},
        sequence_length=config.sequence_length,
        sides=[
            _side(corpus, domain, side, chosen)
            for domain in domains
            for side in SIDES
            if (chosen := [stream for stream in streams if (stream.domain, stream.side) == (domain, side)])
        ],
        shares=shares,
        sources=[
            SourceFigures(
                number,
                source.kind_name(),
                sorted({stream.domain for stream in training if stream.source == number}),
                source.weight,
                of_source[number],
                epochs[number],
                corpus.shards.skipped[number].counts,
                corpus.shards.skipped[number].first,
            )
            for number, source in enumerate(config.sources)
        ],
        lengths=[
            _lengths(corpus.shards, domain, [stream for stream in streams if stream.domain == domain])
            for domain in domains
        ],
        duplicates=_duplicates(corpus.shards, training),
        leakage=_leakage(corpus.shards, training, validation),
        skipped_in_validation=in_validation,
    )


def _side(corpus: Corpus, domain: str, side: Side, streams: Sequence[TokenStream]) -> SideFigures:
    documents, tokens, size = (sum(getattr(s, name) for s in streams) for name in ("documents", "tokens", "bytes"))
    rows = [corpus.rows(stream) for stream in streams]
    n_rows = sum(map(len, rows))
    filled = sum(each.filled for each in rows)
    return SideFigures(
        domain,
        side,
        documents,
        tokens,
        size,
        size / max(1, tokens - documents),
        any(stream.marked for stream in streams),
        sum(stream.scored for stream in streams),
        n_rows,
        1 - filled / max(1, n_rows * corpus.config.row_shape().places),
        sum(each.truncated for each in rows),
        sum(each.left_out for each in rows),
    )


def _lengths(shards: Shards, domain: str, streams: Sequence[TokenStream]) -> Lengths:
    length_D = _column(shards, streams, "lengths")
    exponent_D = np.frexp(length_D.astype(np.float64))[1] - 1  # the floor of the logarithm to base 2
    counts = np.bincount(exponent_D).tolist()
    return Lengths(
        domain,
        float(np.median(length_D)),
        float(length_D.mean()),
        int(length_D.max()),
        [1 << exponent for exponent in range(len(counts))],
        counts,
    )


def _duplicates(shards: Shards, streams: Sequence[TokenStream]) -> Duplicates:
    """Documents that come after another one of the same text."""
    hash_D, size_D = _column(shards, streams, "hashes"), _column(shards, streams, "sizes")
    order_D = np.argsort(hash_D, kind="stable")
    again_D = np.zeros(len(hash_D), dtype=np.bool_)
    again_D[1:] = hash_D[order_D][1:] == hash_D[order_D][:-1]
    number_D = order_D[again_D]
    # The first of each run of equal ones stands in front of the run.
    first_D = order_D[np.maximum.accumulate(np.where(again_D, 0, np.arange(len(again_D))))][again_D]
    pairs = sorted(zip(number_D.tolist(), first_D.tolist(), strict=True))[:EXAMPLES] if len(number_D) else []
    share = float(size_D[number_D].sum() / max(1, int(size_D.sum())))
    return Duplicates(len(number_D), share, _named(shards, streams, streams, pairs))


def _leakage(shards: Shards, training: Sequence[TokenStream], validation: Sequence[TokenStream]) -> Duplicates:
    """Held-out documents that stand in the training."""
    trained_D, hash_D = _column(shards, training, "hashes"), _column(shards, validation, "hashes")
    size_D = _column(shards, validation, "sizes")
    order_D = np.argsort(trained_D, kind="stable")
    place_D = np.minimum(np.searchsorted(trained_D[order_D], hash_D), len(trained_D) - 1)
    number_D = np.flatnonzero(trained_D[order_D[place_D]] == hash_D)
    pairs = [(number, int(order_D[place_D[number]])) for number in number_D[:EXAMPLES].tolist()]
    share = float(size_D[number_D].sum() / max(1, int(size_D.sum())))
    return Duplicates(len(number_D), share, _named(shards, validation, training, pairs))


def _column(shards: Shards, streams: Sequence[TokenStream], name: str) -> NDArray[Any]:
    """What is known of the documents of several streams, [D]."""
    return np.concatenate([shards.documents(stream, name) for stream in streams])


def _named(
    shards: Shards, streams: Sequence[TokenStream], others: Sequence[TokenStream], pairs: list[tuple[int, int]]
) -> list[Pair]:
    """Pairs of documents, the first of each counted through `streams` and the second through `others`, by name."""
    first = _names(shards, streams, [number for number, _ in pairs])
    second = _names(shards, others, [number for _, number in pairs])
    return [Pair(*one, *other) for one, other in zip(first, second, strict=True)]


def _names(shards: Shards, streams: Sequence[TokenStream], numbers: list[int]) -> list[tuple[str, str]]:
    """The domain and the name of documents counted through several streams."""
    found: dict[int, tuple[str, str]] = {}
    before = 0
    for stream in streams:
        here = [number - before for number in numbers if before <= number < before + stream.documents]
        names = shards.keys(stream, here) if here else {}
        found |= {before + number: (stream.domain, name) for number, name in names.items()}
        before += stream.documents
    return [found[number] for number in numbers]
