"""From sources to shards: read, split, learn the tokenizer, tokenize."""

from collections.abc import Callable, Iterator
from pathlib import Path

from sublayer.data.config import DataConfig
from sublayer.data.shards import StreamWriter, TokenStream, write_manifest
from sublayer.data.skipped import Skipped
from sublayer.data.sources import SourceConfig
from sublayer.data.split import Part, divide, whole
from sublayer.data.spool import Spool
from sublayer.data.tokenizer import Tokenizer
from sublayer.errors import DataError

Progress = Callable[[str, float], None]
"""Told the stage and how much of it is done, from 0 to 1."""

LEARN_FROM = 200_000_000
"""Bytes of text a tokenizer learns from at most; of more text, evenly spaced pieces are taken."""

BATCH = 4 << 20
"""Characters tokenized at once, on all cores."""

Split = tuple[Spool, list[Part]]


def build(config: DataConfig, fingerprints: list[str], directory: Path, progress: Progress) -> None:
    """Write the shards, the tokenizer and the manifest of `config` into `directory`.

    Args:
        config: what to build.
        fingerprints: of every source, then of every validation source, as they were when the content key was made.
        directory: an unfinished place; made if missing.
        progress: told how far it is.

    Raises:
        DataError: when a source cannot be read, or changes while it is read.
    """
    directory.mkdir(parents=True, exist_ok=True)
    sources = [*config.sources, *config.validation]
    spools = _spool(sources, fingerprints, directory, progress)
    splits: list[Split] = []
    for number, spool in enumerate(spools):
        if not config.validation:
            splits.append((spool, divide(spool, config.validation_share)))
        else:
            splits.append((spool, whole(spool, "training" if number < len(config.sources) else "validation")))

    progress("learning the tokenizer", 0.0)
    tokenizer = config.tokenizer.build(lambda: _to_learn_from(splits, progress))
    streams = _tokenize(splits, len(config.sources), tokenizer, directory, progress)
    for spool in spools:
        spool.path.unlink()
    write_manifest(directory, streams, tokenizer)


def _spool(sources: list[SourceConfig], fingerprints: list[str], directory: Path, progress: Progress) -> list[Spool]:
    spools = []
    for number, (source, fingerprint) in enumerate(zip(sources, fingerprints, strict=True)):

        def seen(documents: int, number: int = number) -> None:
            # How many documents follow is unknown, so the share within a source only creeps towards its end.
            if documents % 64 == 1:
                progress("reading", (number + documents / (documents + 500)) / len(sources))

        spool = Spool.write(directory / f"{number:04d}.text", source.documents(Skipped()), seen)
        if not spool.entries:
            raise DataError(f"data.sources: the {source.kind_name()} source holds no text; name one that does.")
        if source.fingerprint() != fingerprint:
            raise DataError(
                f"data.sources: the {source.kind_name()} source changed while it was read; start again when it rests."
            )
        spools.append(spool)
    progress("reading", 1.0)
    return spools


def _to_learn_from(splits: list[Split], progress: Progress) -> Iterator[str]:
    parts = [(spool, part) for spool, split in splits for part in split if part.side == "training"]
    size = sum(part.end - part.begin for _, part in parts)
    taken = min(1.0, LEARN_FROM / size)
    done = number = 0
    for spool, part in parts:
        for text in spool.read(part.begin, part.end):
            number += 1
            done += len(text)
            if int(number * taken) > int((number - 1) * taken):
                yield text
        progress("learning the tokenizer", 0.5 * min(1.0, done / size))  # merging, the other half, tells nothing


def _tokenize(
    splits: list[Split], n_sources: int, tokenizer: Tokenizer, directory: Path, progress: Progress
) -> list[TokenStream]:
    size = sum(part.end - part.begin for _, split in splits for part in split)
    done = 0
    streams: list[TokenStream] = []
    for number, (spool, parts) in enumerate(splits):
        for domain, side in sorted({(part.domain, part.side) for part in parts}):
            writer = StreamWriter(directory, f"{len(streams):04d}.tokens", tokenizer)
            chosen = [part for part in parts if (part.domain, part.side) == (domain, side)]
            for batch in _batches(spool, chosen):
                ids = tokenizer.encode_batch([text for _, text in batch], start=False)
                writer.append([(begins, row) for (begins, _), row in zip(batch, ids, strict=True)])
                done += sum(len(text) for _, text in batch)
                progress("tokenizing", min(1.0, done / size))
            streams.append(writer.finish(number if number < n_sources else number - n_sources, domain, side))
    progress("tokenizing", 1.0)
    return streams


def _batches(spool: Spool, parts: list[Part]) -> Iterator[list[tuple[bool, str]]]:
    """Texts of about `BATCH` characters together, and whether a document begins with each."""
    batch: list[tuple[bool, str]] = []
    size = 0
    for part in parts:
        for number, text in enumerate(spool.read(part.begin, part.end)):
            batch.append((number == 0, text))
            size += len(text)
            if size >= BATCH:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch
