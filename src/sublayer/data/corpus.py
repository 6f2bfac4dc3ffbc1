"""The public face of the room: a data config made ready, and its batches.

Shape suffixes: B batch (rows), T length, N samples or tokens.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sublayer.data.build import Progress
from sublayer.data.cache import cache_directory, open_or_build
from sublayer.data.config import DataConfig
from sublayer.data.objective import Stretch
from sublayer.data.order import Order
from sublayer.data.packing import Batch
from sublayer.data.permutation import Words, mixed
from sublayer.data.rows import Rows
from sublayer.data.shards import Shards, Tokens, TokenStream
from sublayer.data.split import Side
from sublayer.data.tokenizer import Tokenizer
from sublayer.errors import DataError

WINDOW = 512
"""Samples whose rows are decided at once."""

TRAINING, HELD_OUT = 1 << 32, 2 << 32
"""Set the draws of an objective apart from one another and from those of the order."""


def prepare(
    config: DataConfig,
    *,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> "Corpus":
    """Read, split and tokenize what `config` names, or open what an earlier call left in the cache.

    Args:
        config: the data.
        progress: told the stage ("reading", "learning the tokenizer", "tokenizing"), how much of it is done, from 0 to
            1, and the bytes of text a second; not called when everything is in the cache.
        cache: where tokens are kept; left out, `$SUBLAYER_CACHE` or the user's cache folder.

    Raises:
        DataError: when a source or tokenizer cannot be read, or there is too little text for a row on either side.
        RunError: when the cache cannot be written, or a process that helps dies; called again, it goes on from there.
    """
    _, shards = open_or_build(config, cache or cache_directory(), progress or (lambda stage, done, rate: None))
    return Corpus(config, shards)


class Corpus:
    """Tokens made ready for training and validation.

    Args:
        config: how rows are read.
        shards: the tokens.

    Attributes:
        config: as given.
        fingerprint: equal for equal tokens; changes with the text of the sources, tokenizer and split, and not with
            options that came after a corpus was made.
        tokenizer: text to tokens and back.
        domains: the names of all domains with a validation side, sorted.
        shards: as given.
        classes: the names of the classes, by number, where the objective tells classes.

    Raises:
        DataError: when there is too little text for one row of training in each source and domain, or of validation in
            each domain.
    """

    def __init__(self, config: DataConfig, shards: Shards) -> None:
        self.config = config
        self.tokenizer: Tokenizer = shards.tokenizer
        self.fingerprint = shards.fingerprint()
        self.shards = shards
        config.objective.check_tokenizer(self.tokenizer)
        self.classes = config.objective.classes_in(shards)
        self._objective = config.objective.build(self.tokenizer, config.sequence_length, config.isolate_documents)
        self._training = [stream for stream in shards.streams if stream.side == "training"]
        self._validation = [stream for stream in shards.streams if stream.side == "validation"]
        self.domains = sorted({stream.domain for stream in self._validation})
        self._tokens = {stream.file: shards.tokens(stream) for stream in shards.streams}
        self._marks = {stream.file: shards.marks(stream) for stream in shards.streams}
        self._rows = {stream.file: self._objective.rows(shards, stream) for stream in shards.streams}
        self._refuse_too_little()
        self._places: dict[tuple[int, int], list[tuple[str, int]]] = {}
        self._order = Order([len(self._rows[stream.file]) for stream in self._training], self.shares())

    def describe(self) -> dict[str, dict[str, dict[str, int]]]:
        """By domain and side (`training`, `validation`): the numbers of `documents`, `tokens` and `bytes`.

        `sublayer.data.description` tells more.
        """
        table: dict[str, dict[str, dict[str, int]]] = {}
        for stream in sorted(self.shards.streams, key=lambda stream: (stream.domain, stream.side)):
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
        samples = range(first_sample, first_sample + count)
        key_B = mixed(seed, TRAINING, np.array(samples, dtype=np.uint64)) if self._objective.draws else None
        return self._read([self._place(seed, sample) for sample in samples], key_B)

    @property
    def n_answers(self) -> int:
        """V, how many different targets there can be."""
        return len(self.classes) or self.tokenizer.vocab_size

    @property
    def n_training_rows(self) -> int:
        """How many rows there are to train on."""
        return sum(len(self._rows[stream.file]) for stream in self._training)

    def epochs(self, n_samples: int) -> list[float]:
        """How many times training reads each of the config's `sources`.

        Args:
            n_samples: rows that training reads: steps times batch size.
        """
        sources = range(len(self.config.sources))
        n_rows = [sum(len(self._rows[s.file]) for s in self._training if s.source == source) for source in sources]
        total = sum(source.weight for source in self.config.sources)
        weights = (source.weight for source in self.config.sources)
        return [n_samples * weight / total / rows for weight, rows in zip(weights, n_rows, strict=True)]

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
        places = self._held_out_places(domain, max_tokens)
        for first in range(0, len(places), batch_size):
            chosen = places[first : first + batch_size]
            yield self._read(chosen, self._held_out_keys(chosen) if self._objective.draws else None)

    def validation_documents(self, domain: str, max_tokens: int | None = None) -> NDArray[np.int64]:
        """The document that each row of `validation` begins in, [R], by a number of its own within the domain; the
        documents that follow in a row have the numbers that follow.

        Args:
            domain, max_tokens: as given to `validation`.

        Raises:
            DataError: when there is no such domain.
        """
        first, ends = 0, {}
        for stream in self._streams(domain, "validation"):
            lengths_D = self.shards.documents(stream, "lengths").astype(np.int64)
            ends[stream.file] = first, lengths_D.cumsum()
            first += len(lengths_D)
        documents = []
        for file, row in self._held_out_places(domain, max_tokens):
            before, end_D = ends[file]
            begin, _ = self._rows[file].stretch(row)
            documents.append(before + int(np.searchsorted(end_D, begin, side="right")))
        return np.array(documents, dtype=np.int64)

    def training_tokens(self) -> list[Tokens]:
        """The training streams, [N] each, mapped from disk."""
        return [self._tokens[stream.file] for stream in self._training]

    def training_text(self, domain: str, last_bytes: int | None = None, scored: bool = False) -> Iterator[bytes]:
        """The UTF-8 text of a domain's training side, in pieces.

        Args:
            domain: one with a training side.
            last_bytes: begin so late that about this many bytes are left, and not fewer where there are more.
            scored: only the text of tokens that are targets of the loss, such as the answers of conversations.

        Raises:
            DataError: when there is no such domain on that side.
        """
        streams = self._streams(domain, "training")
        sizes = [stream.scored_bytes if scored else stream.bytes for stream in streams]
        after = sum(sizes)
        for stream, size in zip(streams, sizes, strict=True):
            after -= size
            yield from self.shards.text(stream, None if last_bytes is None else last_bytes - after, scored)

    def validation_text(self, domain: str, scored: bool = False) -> Iterator[bytes]:
        """The UTF-8 text of a domain's validation side, in pieces.

        Args:
            domain: one of `domains`.
            scored: only the text of tokens that are targets of the loss.

        Raises:
            DataError: when there is no such domain on that side.
        """
        for stream in self._streams(domain, "validation"):
            yield from self.shards.text(stream, scored=scored)

    def rows(self, stream: TokenStream) -> Rows:
        """Which tokens of a stream each row reads."""
        return self._rows[stream.file]

    def shares(self) -> list[float]:
        """How much of training each training stream is: its source's part by weight, times its part of the source's
        tokens, or of its rows where those have a single target each; together 1."""
        by_rows = self.config.row_shape().one_target
        sizes = [len(self._rows[stream.file]) if by_rows else stream.tokens for stream in self._training]
        in_source: dict[int, int] = {}
        for stream, size in zip(self._training, sizes, strict=True):
            in_source[stream.source] = in_source.get(stream.source, 0) + size
        total = sum(source.weight for source in self.config.sources)
        weights = [source.weight / total for source in self.config.sources]
        return [
            weights[stream.source] * size / in_source[stream.source]
            for stream, size in zip(self._training, sizes, strict=True)
        ]

    def _streams(self, domain: str, side: Side) -> list[TokenStream]:
        streams = [stream for stream in self.shards.streams if (stream.domain, stream.side) == (domain, side)]
        if not streams:
            known = sorted({stream.domain for stream in self.shards.streams if stream.side == side})
            raise DataError(f"there is no domain '{domain}' for {side}; choose from: {', '.join(known)}.")
        return streams

    def _place(self, seed: int, sample: int) -> tuple[str, int]:
        """The file and row of a sample; decided for many samples at once, which takes no longer than for one."""
        window = (seed, sample // WINDOW)
        places = self._places.get(window)
        if places is None:
            rows = self._order.rows(seed, np.arange(window[1] * WINDOW, (window[1] + 1) * WINDOW, dtype=np.int64))
            files = [self._training[stream].file for stream in rows.stream_N.tolist()]
            places = list(zip(files, rows.row_N.tolist(), strict=True))
            self._places = {window: places}  # the one before is not asked for again
        return places[sample % WINDOW]

    def _held_out_places(self, domain: str, max_tokens: int | None) -> list[tuple[str, int]]:
        """The held-out rows of a domain, or so many of them, spread evenly: the stream's file and the row's number."""
        streams = self._streams(domain, "validation")
        places = [(stream.file, row) for stream in streams for row in range(len(self._rows[stream.file]))]
        length = self.config.sequence_length
        if max_tokens is not None and max_tokens < len(places) * length:
            wanted = max(1, max_tokens // length)
            places = [places[number * len(places) // wanted] for number in range(wanted)]
        return places

    def _held_out_keys(self, places: Sequence[tuple[str, int]]) -> Words:
        """The keys of held-out rows, [B]: always the same ones, so that every evaluation asks the same."""
        numbers = {stream.file: number for number, stream in enumerate(self._validation)}
        file_B = np.array([numbers[file] for file, _ in places], dtype=np.uint64)
        return mixed(HELD_OUT, file_B, np.array([row for _, row in places], dtype=np.uint64))

    def _read(self, places: Sequence[tuple[str, int]], key_B: Words | None) -> Batch:
        """The rows at some places: the stream's file, and the row's number in it."""
        stretches = []
        for file, row in places:
            rows, marks_N = self._rows[file], self._marks[file]
            begin, end = rows.stretch(row)
            marks_N = None if marks_N is None else marks_N[begin:end]
            stretches.append(Stretch(self._tokens[file][begin:end], marks_N, rows.label(row), rows.segment(row)))
        return self._objective.batch(stretches, key_B)

    def _refuse_too_little(self) -> None:
        needed = self._objective.needed
        for stream in self._training:
            if len(self._rows[stream.file]) == 0 and stream.marked:
                raise DataError(
                    f"data.sources[{stream.source}]: no document of '{stream.domain}' has anything to learn in its "
                    f"first {needed} tokens; raise data.sequence_length."
                )
            if len(self._rows[stream.file]) == 0:
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
            streams = self._streams(domain, "validation")
            if any(stream.marked for stream in streams):
                if not any(len(self._rows[stream.file]) for stream in streams):
                    raise DataError(
                        f"data: no document of '{domain}' to validate on has anything to learn in its first {needed} "
                        "tokens; raise data.sequence_length."
                    )
                continue
            tokens = sum(stream.tokens for stream in streams)
            if tokens < needed:
                raise DataError(
                    f"data: '{domain}' has {tokens} tokens to validate on where a row needs {needed}; give more text, "
                    f"a larger data.validation_share or a data.sequence_length below {tokens}."
                )
