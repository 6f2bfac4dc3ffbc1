"""The public face of the room: a data config made ready, and its batches.

Shape suffixes: B batch (rows), T length, N samples or tokens.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from sublayer.data.cache import cache_directory, open_or_build
from sublayer.data.config import DataConfig
from sublayer.data.order import Order
from sublayer.data.packing import Batch, n_full_rows, n_rows, packed
from sublayer.data.shards import Shards, Tokens, TokenStream
from sublayer.data.split import Side
from sublayer.data.tokenizer import Tokenizer
from sublayer.errors import DataError


def prepare(
    config: DataConfig,
    *,
    progress: Callable[[str, float], None] | None = None,
    cache: Path | None = None,
) -> "Corpus":
    """Read, split and tokenize what `config` names, or open what an earlier call left in the cache.

    Args:
        config: the data.
        progress: told the stage ("reading", "learning the tokenizer", "tokenizing") and how much of it is done, from
            0 to 1; not called when everything is in the cache.
        cache: where tokens are kept; left out, `$SUBLAYER_CACHE` or the user's cache folder.

    Raises:
        DataError: when a source or tokenizer cannot be read, or there is too little text for a row on either side.
        RunError: when the cache cannot be written.
    """
    key, shards = open_or_build(config, cache or cache_directory(), progress or (lambda stage, done: None))
    return Corpus(config, key, shards)


class Corpus:
    """Tokens made ready for training and validation.

    Args:
        config: how rows are read.
        fingerprint: the content key of the shards.
        shards: the tokens.

    Attributes:
        config: as given.
        fingerprint: equal for equal tokens; changes with sources, tokenizer and split.
        tokenizer: text to tokens and back.
        domains: the names of all domains with a validation side, sorted.

    Raises:
        DataError: when there is too little text for one row of training in each source and domain, or of validation in
            each domain.
    """

    def __init__(self, config: DataConfig, fingerprint: str, shards: Shards) -> None:
        self.config = config
        self.tokenizer: Tokenizer = shards.tokenizer
        # What a learnt tokenizer turned out to be depends on the library's version as well.
        self.fingerprint = hashlib.sha256(f"{fingerprint} {self.tokenizer.fingerprint()}".encode()).hexdigest()
        self._shards = shards
        self._training = [stream for stream in shards.streams if stream.side == "training"]
        self._validation = [stream for stream in shards.streams if stream.side == "validation"]
        self.domains = sorted({stream.domain for stream in self._validation})
        self._refuse_too_little()
        self._tokens = {stream.file: shards.tokens(stream) for stream in shards.streams}
        length = config.sequence_length
        self._order = Order([n_full_rows(stream.tokens, length) for stream in self._training], self._shares())

    def describe(self) -> dict[str, dict[str, dict[str, int]]]:
        """By domain and side (`training`, `validation`): the numbers of `documents`, `tokens` and `bytes`."""
        table: dict[str, dict[str, dict[str, int]]] = {}
        for stream in sorted(self._shards.streams, key=lambda stream: (stream.domain, stream.side)):
            sides = table.setdefault(stream.domain, {})
            counts = sides.setdefault(stream.side, {"documents": 0, "tokens": 0, "bytes": 0})
            counts["documents"] += stream.documents
            counts["tokens"] += stream.tokens
            counts["bytes"] += stream.bytes
        return table

    def batch(self, seed: int, first_sample: int, count: int) -> Batch:
        """Training samples `first_sample` … `first_sample + count − 1` of the order that `seed` gives.

        Args:
            seed: of the data order.
            first_sample: the global number of the first sample, from 0.
            count: B, at least 1.
        """
        rows = self._order.rows(seed, np.arange(first_sample, first_sample + count, dtype=np.int64))
        length = self.config.sequence_length
        stretches = []
        for stream, row in zip(rows.stream_N.tolist(), rows.row_N.tolist(), strict=True):
            tokens_N = self._tokens[self._training[stream].file]
            stretches.append(tokens_N[row * length : row * length + length + 1])
        return self._packed(stretches)

    def validation(self, domain: str, batch_size: int, max_tokens: int | None = None) -> Iterator[Batch]:
        """The validation side of a domain, every row once and in order; windows do not overlap.

        The last batch may have fewer rows, and the last row of a stream may be padded.

        Args:
            domain: one of `domains`.
            batch_size: B, rows a batch.
            max_tokens: read about this many tokens only, in rows spread evenly over the whole; the same ones each time.

        Raises:
            DataError: when there is no such domain.
        """
        length = self.config.sequence_length
        places = [
            (self._tokens[stream.file], row * length)
            for stream in self._streams(domain, "validation")
            for row in range(n_rows(stream.tokens, length))
        ]
        if max_tokens is not None and max_tokens < len(places) * length:
            wanted = max(1, max_tokens // length)
            places = [places[number * len(places) // wanted] for number in range(wanted)]
        for first in range(0, len(places), batch_size):
            chosen = places[first : first + batch_size]
            yield self._packed([tokens_N[begin : begin + length + 1] for tokens_N, begin in chosen])

    def training_tokens(self) -> list[Tokens]:
        """The training streams, [N] each, mapped from disk."""
        return [self._tokens[stream.file] for stream in self._training]

    def training_text(self, domain: str, last_bytes: int | None = None) -> Iterator[bytes]:
        """The UTF-8 text of a domain's training side, in pieces.

        Args:
            domain: one with a training side.
            last_bytes: begin so late that about this many bytes are left, and not fewer where there are more.

        Raises:
            DataError: when there is no such domain on that side.
        """
        streams = self._streams(domain, "training")
        after = sum(stream.bytes for stream in streams)
        for stream in streams:
            after -= stream.bytes
            yield from self._shards.text(stream, None if last_bytes is None else last_bytes - after)

    def validation_text(self, domain: str) -> Iterator[bytes]:
        """The UTF-8 text of a domain's validation side, in pieces.

        Raises:
            DataError: when there is no such domain on that side.
        """
        for stream in self._streams(domain, "validation"):
            yield from self._shards.text(stream)

    def _streams(self, domain: str, side: Side) -> list[TokenStream]:
        streams = [stream for stream in self._shards.streams if (stream.domain, stream.side) == (domain, side)]
        if not streams:
            known = sorted({stream.domain for stream in self._shards.streams if stream.side == side})
            raise DataError(f"there is no domain '{domain}' for {side}; choose from: {', '.join(known)}.")
        return streams

    def _packed(self, stretches: list[Tokens]) -> Batch:
        return packed(stretches, self.config.sequence_length, self.tokenizer.end_id, self.config.isolate_documents)

    def _shares(self) -> list[float]:
        """Of each training stream: its source's weight, times its part of the source's tokens."""
        in_source: dict[int, int] = {}
        for stream in self._training:
            in_source[stream.source] = in_source.get(stream.source, 0) + stream.tokens
        weights = [source.weight for source in self.config.sources]
        return [weights[stream.source] * stream.tokens / in_source[stream.source] for stream in self._training]

    def _refuse_too_little(self) -> None:
        needed = self.config.sequence_length + 1
        for stream in self._training:
            if stream.tokens < needed:
                raise DataError(
                    f"data.sources[{stream.source}]: '{stream.domain}' has {stream.tokens} tokens to train on where a "
                    f"row needs {needed}; give more text or a data.sequence_length below {stream.tokens}."
                )
        for side, streams in (("train", self._training), ("validate", self._validation)):
            if not streams:
                raise DataError(
                    f"data.sources: there is no text to {side} on where a row needs {needed} tokens; give more."
                )
        for domain in self.domains:
            tokens = sum(stream.tokens for stream in self._validation if stream.domain == domain)
            if tokens < needed:
                raise DataError(
                    f"data: '{domain}' has {tokens} tokens to validate on where a row needs {needed}; give more text, "
                    f"a larger data.validation_share or a data.sequence_length below {tokens}."
                )
