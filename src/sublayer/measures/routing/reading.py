"""The text that a model's routing is measured on: rows by domain, each with the document that it begins in.

Shapes: B rows, T tokens, N tokens of a domain.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sublayer.data import Batch, Corpus, Tokenizer
from sublayer.data.packing import NOT_SCORED, SourceRows, laid_out
from sublayer.data.skipped import Skipped
from sublayer.data.sources import SourceConfig
from sublayer.errors import ConfigError, DataError

LONGEST_ROW = 512
"""Tokens of a row of plain text, where a model has no data that says how long its rows are."""

MOST_TEXT = 4_000_000
"""Characters read of a domain's plain text at most; the rows are spread evenly over them."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Some rows of a domain.

    Attributes:
        domain: its name.
        batch: the rows; their targets are of no use here.
        document_B: the document that each row begins in, by a number within the domain; the ones that follow in a row
            have the numbers that follow.
    """

    domain: str
    batch: Batch
    document_B: NDArray[np.int64]


def held_out_readings(corpus: Corpus, batch_size: int, max_tokens: int | None = None) -> list[Reading]:
    """The held-out rows of every domain, as the objective shows them to the model.

    Args:
        corpus: whose held-out side is read.
        batch_size: rows at once.
        max_tokens: tokens read of a domain, spread evenly over it; None for all.
    """
    readings = []
    for domain in corpus.domains:
        document_R = corpus.validation_documents(domain, max_tokens)
        for number, batch in enumerate(corpus.validation(domain, batch_size, max_tokens)):
            begin = number * batch_size
            readings.append(Reading(domain, batch, document_R[begin : begin + len(batch.tokens_BT)]))
    return readings


def text_readings(
    sources: Sequence[SourceConfig],
    tokenizer: Tokenizer,
    length: int,
    batch_size: int,
    max_tokens: int | None = None,
    two_sided: bool = False,
) -> list[Reading]:
    """Plain text, packed in rows.

    Args:
        sources: of text, a domain or more each.
        tokenizer: the model's.
        length: T.
        batch_size: rows at once.
        max_tokens: tokens read of a domain, spread evenly over it; None for all.
        two_sided: for an encoder and a decoder, both of which then read the same.

    Raises:
        DataError: when there is nothing to read, or something cannot be read.
        ConfigError: when two sources have a domain of the same name.
    """
    readings: list[Reading] = []
    for source in sources:
        found = _texts(source)
        for domain, texts in found.items():
            if any(reading.domain == domain for reading in readings):
                raise ConfigError(
                    f"--text: two of them are called '{domain}'; rename one, or put both in a folder and name that."
                )
            rows, document_R = _rows(texts, tokenizer, length, max_tokens)
            for begin in range(0, len(rows), batch_size):
                batch = _batch(rows[begin : begin + batch_size], length, tokenizer.end_id, two_sided)
                readings.append(Reading(domain, batch, document_R[begin : begin + batch_size]))
    return readings


def _texts(source: SourceConfig) -> dict[str, list[str]]:
    """The texts of a source by domain, up to `MOST_TEXT` characters of each."""
    found: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    for document in source.documents(Skipped()):
        left = MOST_TEXT - sizes.get(document.domain, 0)
        if left <= 0:
            if source.of_one_domain():
                break
            continue
        text = document.text[:left]
        texts = found.setdefault(document.domain, [])
        if document.continues and texts:
            texts[-1] += text
        else:
            texts.append(text)
        sizes[document.domain] = sizes.get(document.domain, 0) + len(text)
    if not any(any(texts) for texts in found.values()):
        raise DataError(f"--text: the {source.kind_name()} source holds no text; name one that does.")
    return found


def _rows(
    texts: Sequence[str], tokenizer: Tokenizer, length: int, max_tokens: int | None
) -> tuple[list[NDArray[np.uint32]], NDArray[np.int64]]:
    """Rows of T tokens, the last perhaps shorter, and the document that each begins in."""
    encoded = tokenizer.encode_batch(texts)
    stream_N = np.concatenate([np.array(ids, dtype=np.uint32) for ids in encoded])
    end_D = np.cumsum([len(ids) for ids in encoded])
    begins = list(range(0, len(stream_N), length))
    if max_tokens is not None and max_tokens < len(begins) * length:
        wanted = max(1, max_tokens // length)
        begins = [begins[number * len(begins) // wanted] for number in range(wanted)]
    document_R = np.searchsorted(end_D, begins, side="right").astype(np.int64)
    return [stream_N[begin : begin + length] for begin in begins], document_R


def _batch(rows: Sequence[NDArray[np.uint32]], length: int, end_id: int, two_sided: bool) -> Batch:
    laid = laid_out(rows, [None] * len(rows), length, end_id, isolate_documents=True)
    tokens, positions, document, valid = laid.tensors()
    source = SourceRows(tokens, positions, document, valid) if two_sided else None
    return Batch(tokens, torch.full_like(tokens, NOT_SCORED), positions, document, valid, source)


def domains_of(readings: Iterable[Reading]) -> list[str]:
    """The names of the domains, in the order in which they come."""
    return list(dict.fromkeys(reading.domain for reading in readings))


def sides_of(reading: Reading) -> Iterator[tuple[str, Batch | SourceRows]]:
    """The prefix of the names of layers that read each side, and what they read."""
    yield "", reading.batch
    if reading.batch.source is not None:
        yield "encoder.", reading.batch.source
