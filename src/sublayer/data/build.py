"""From sources to shards: read, split, learn the tokenizer, tokenize.

Every stage leaves what it has done in the unfinished place, so that a build that was killed goes on where it was.
"""

import ctypes
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sublayer.data.chunks import Chunk, chunks
from sublayer.data.config import DataConfig
from sublayer.data.document import Document
from sublayer.data.sample import learnt_from
from sublayer.data.shards import StreamWriter, TokenStream, write_manifest
from sublayer.data.skipped import Skipped
from sublayer.data.sources import SourceConfig
from sublayer.data.split import Side, Split, divide, whole
from sublayer.data.spool import Spool, opened_spool
from sublayer.data.tokenizer import Tokenizer
from sublayer.data.tokenizing import Streams, read_chunk, tokenize, write_chunk
from sublayer.data.worker import order
from sublayer.data.workers import MOST, Workers, n_cores
from sublayer.errors import DataError
from sublayer.files import remove, written_aside

Progress = Callable[[str, float, float], None]
"""Told the stage, how much of it is done, from 0 to 1, and the bytes of text a second (0 where that says nothing)."""

ALONE = 32_000_000
"""Bytes of text up to which one process tokenizes: starting more would take as long."""


def build(
    config: DataConfig, fingerprints: Sequence[str], stamps: Sequence[str], place: Path, progress: Progress
) -> Path:
    """Write the shards, the tokenizer and the manifest of `config`.

    Args:
        config: what to build.
        fingerprints: of every source, then of every validation source, as they were when the content key was made.
        stamps: of the same, as they were before that.
        place: where an earlier build of the same may have left something, and this one leaves what it does.
        progress: told how far it is.

    Returns:
        The directory of the shards, within `place`.

    Raises:
        DataError: when a source cannot be read, or changes while it is read.
        RunError: when a process that helps dies.
        OSError: when the disk is full or the place cannot be written.
    """
    place.mkdir(parents=True, exist_ok=True)
    spools = _spool(config, fingerprints, stamps, place, progress)
    splits = []
    for number, spool in enumerate(spools):
        if not config.validation:
            splits.append(divide(spool, config.validation_share))
        else:
            splits.append(whole("training" if number < len(config.sources) else "validation"))
    tokenizer = _tokenizer(config, spools, splits, place / "tokenizer", progress)
    work = _Work(spools, splits, tokenizer, place)
    work.tokenize(progress)
    return work.assemble(len(config.sources), [spool.skipped for spool in spools])


def _spool(
    config: DataConfig, fingerprints: Sequence[str], stamps: Sequence[str], place: Path, progress: Progress
) -> list[Spool]:
    sources = config.to_read()
    spools = []
    for number, (source, fingerprint, stamp) in enumerate(zip(sources, fingerprints, stamps, strict=True)):
        path = place / f"{number:04d}.text"
        spool = opened_spool(path)
        if spool is None:
            told = _Told("reading", progress, source.size(), number, len(sources))
            skipped = Skipped()
            spool = Spool.write(path, _unchanged(source, skipped, stamp, fingerprint), skipped, told)
            if any(spool.labels) and not all(spool.labels):
                raise DataError(
                    f"data.sources: the {source.kind_name()} source gives labels to some of its documents only; give "
                    "each one."
                )
            if not spool.documents:
                raise DataError(f"data.sources: the {source.kind_name()} source holds no text; name one that does.")
        spools.append(spool)
    progress("reading", 1.0, 0.0)
    return spools


def _unchanged(source: SourceConfig, skipped: Skipped, stamp: str, fingerprint: str) -> Iterator[Document]:
    """The documents of a source, which is looked at once more behind the last."""
    yield from source.documents(skipped)
    if source.stamp() != stamp and source.fingerprint() != fingerprint:
        raise DataError(
            f"data.sources: the {source.kind_name()} source changed while it was read; start again when it rests."
        )


class _Told:
    """Tells of progress through bytes, several times a second.

    Args:
        stage: what is done.
        progress: the one to tell.
        size: how many bytes there are, if that is known.
        part: the number of this part of the stage.
        parts: how many parts it has.
        done: how many bytes an earlier build has done.
    """

    def __init__(
        self, stage: str, progress: Progress, size: int | None, part: int = 0, parts: int = 1, done: int = 0
    ) -> None:
        self._stage, self._progress = stage, progress
        self._size, self._part, self._parts = size, part, parts
        self._first = self._done = done
        self._began, self._last = time.monotonic(), 0.0

    def more(self, size: int) -> None:
        """So many bytes more are done."""
        self._done += size
        self(self._done)

    def __call__(self, done: int) -> None:
        """So many bytes are done."""
        now = time.monotonic()
        if now - self._last < 0.1:
            return
        self._last = now
        # Where nobody knows how much follows, the share only creeps towards its end.
        share = done / self._size if self._size else done / (done + 1e7)
        rate = (done - self._first) / max(now - self._began, 1e-3)
        self._progress(self._stage, (self._part + min(share, 1.0)) / self._parts, rate)


def _tokenizer(
    config: DataConfig, spools: Sequence[Spool], splits: Sequence[Split], directory: Path, progress: Progress
) -> Tokenizer:
    """The tokenizer, learnt or read; it is kept as soon as it is known."""
    stage = "learning the tokenizer"
    progress(stage, 0.0, 0.0)
    if not (directory / "tokenizer.json").is_file():
        told = _Told(
            stage, progress, 2 * sum(spool.bytes for spool in spools)
        )  # merging, the other half, tells nothing
        tokenizer = config.tokenizer.build(lambda: learnt_from(spools, splits, told))
        tokenizer.chat_template = config.chat_template() or tokenizer.chat_template
        if added := config.special_tokens():
            tokenizer = tokenizer.with_special(added)
        config.objective.check_tokenizer(tokenizer)
        with written_aside(directory) as aside:
            tokenizer.save(aside)
        _give_memory_back()
    # Read back, so that it is the same one whether or not the build was interrupted here.
    return Tokenizer.load(directory)


def _give_memory_back() -> None:
    """Have the system take back what learning has freed: hundreds of megabytes that glibc keeps for later."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


class _Work:
    """The chunks of a build and what becomes of them.

    Args:
        spools: all text.
        splits: of each spool.
        tokenizer: as it lies in `place`.
        place: of the build.
    """

    def __init__(self, spools: Sequence[Spool], splits: Sequence[Split], tokenizer: Tokenizer, place: Path) -> None:
        self._spools, self._splits, self._tokenizer, self._place = spools, splits, tokenizer, place
        self._chunks = chunks(spools, splits)

    def tokenize(self, progress: Progress) -> None:
        """Write the files of all chunks that have none yet: in this process, or on all cores where that pays."""
        missing = [chunk for chunk in self._chunks if not self._path(chunk).is_file()]
        size, left = (sum(chunk.end - chunk.begin for chunk in some) for some in (self._chunks, missing))
        told = _Told("tokenizing", progress, size, done=size - left)
        n_workers = min(n_cores(), MOST, len(missing))
        if left <= ALONE or n_workers < 2 or not sys.executable:
            for chunk in missing:
                self._write(chunk, told.more)
        else:
            orders = [
                order(self._spools[chunk.spool].path, self._splits[chunk.spool], chunk, self._path(chunk))
                for chunk in missing
            ]
            with Workers(n_workers, self._place / "tokenizer") as workers:
                for number in workers.each(orders):
                    told.more(missing[number].end - missing[number].begin)
        progress("tokenizing", 1.0, 0.0)

    def assemble(self, n_sources: int, skipped: Sequence[Skipped]) -> Path:
        """Put the chunks together, in order, to streams of one source, domain and side each."""
        directory = self._place / "shards"
        remove(directory)
        directory.mkdir()
        streams: list[TokenStream] = []
        labels = sorted({label for spool in self._spools for label in spool.labels} - {""})
        for number, spool in enumerate(self._spools):
            writers: dict[tuple[str, Side], StreamWriter] = {}
            numbers = [labels.index(label) for label in spool.labels] if any(spool.labels) else []
            for chunk in self._chunks:
                if chunk.spool != number:
                    continue
                for (domain, side), columns in self._read(chunk).items():
                    name = spool.domains[domain], side
                    if name not in writers:
                        file = f"{number:04d}-{domain}-{side}.tokens"
                        writers[name] = StreamWriter(directory, file, self._tokenizer, numbers)
                    writers[name].append(columns)
            source = number if number < n_sources else number - n_sources
            streams += [writers[domain, side].finish(source, domain, side) for domain, side in sorted(writers)]
        write_manifest(directory, streams, self._tokenizer, skipped, labels)
        return directory

    def _path(self, chunk: Chunk) -> Path:
        # Named by its place, so that chunks of another size are not taken for it.
        return self._place / "chunks" / f"{chunk.spool:04d}-{chunk.begin}-{chunk.end}.npz"

    def _write(self, chunk: Chunk, told: Callable[[int], None] = lambda size: None) -> None:
        spool, split = self._spools[chunk.spool], self._splits[chunk.spool]
        write_chunk(self._path(chunk), tokenize(spool, split, chunk, self._tokenizer, told))

    def _read(self, chunk: Chunk) -> Streams:
        """What a chunk gave; made again where the machine went down before its file was on the disk."""
        streams = read_chunk(self._path(chunk))
        if streams is None:
            self._write(chunk)
            streams = read_chunk(self._path(chunk))
            assert streams is not None
        return streams
