"""Where built tokens are kept, and under which key."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sublayer.data.build import Progress, build
from sublayer.data.config import DataConfig
from sublayer.data.sample import LEARN_FROM, SEED, UNIT
from sublayer.data.shards import FORMAT, Shards
from sublayer.data.sources import SourceConfig
from sublayer.data.split import FEWEST, SALT
from sublayer.errors import DataError, RunError
from sublayer.files import explain, put_in_place, remove

try:
    import fcntl
except ImportError:  # not on Windows; two builders then do the work twice, and both still end well
    fcntl = None  # type: ignore[assignment]


def cache_directory() -> Path:
    """`$SUBLAYER_CACHE`, or `sublayer` in `$XDG_CACHE_HOME`, or `~/.cache/sublayer`."""
    if named := os.environ.get("SUBLAYER_CACHE"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sublayer"


def content_key(config: DataConfig, fingerprints: list[str]) -> str:
    """A hash of all that decides the tokens: sources and their content, tokenizer, split, and this format.

    How tokens become rows (`sequence_length`, `isolate_documents`) and how often a source is drawn from (`weight`) are
    not part of it: they are decided when rows are read.  So is most of what the objective decides.
    """
    tree = config.tree()
    sources = [source.tree() for source in config.to_read()]
    for source in sources:
        del source["weight"]
    decides = {
        "format": FORMAT,
        "sources": sources[: len(config.sources)],
        "validation": sources[len(config.sources) :],
        "fingerprints": fingerprints,
        "split": [tree["validation_share"], SALT, FEWEST],
        "tokenizer": [tree["tokenizer"], config.tokenizer.fingerprint(), config.chat_template()],
        "learnt from": [LEARN_FROM, SEED, UNIT],
    }
    # Where it asks for nothing, the tokens are the same under any objective.
    if added := config.special_tokens():
        decides["special tokens"] = added
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def open_or_build(config: DataConfig, cache: Path, progress: Progress) -> tuple[str, Shards]:
    """The content key of `config` and its shards, built where they are missing or damaged.

    A build that was killed, or failed for want of space, goes on where it was.

    Raises:
        DataError: when a source or tokenizer cannot be read.
        RunError: when the cache cannot be written, or a process that helps dies.
    """
    sources = config.to_read()
    stamps = [source.stamp() for source in sources]
    # Where a source has no cheaper stamp, that is its fingerprint.
    fingerprints = [
        stamp if type(source).stamp is SourceConfig.stamp else source.fingerprint()
        for source, stamp in zip(sources, stamps, strict=True)
    ]
    key = content_key(config, fingerprints)
    directory = cache / "data" / key
    with _lock(directory) as alone:
        # Without a lock, another process may be at work in the same place.
        unfinished = directory.with_name(f".{key}.{'unfinished' if alone else os.getpid()}")
        if alone:
            for leftover in directory.parent.glob(f".{key}.*"):
                if leftover != unfinished:  # of a process without a lock, or that was killed while it put this in place
                    remove(leftover)
        shards = _opened(directory)
        if shards is None:
            try:
                put_in_place(build(config, fingerprints, stamps, unfinished, progress), directory)
                shards = Shards(directory)
            except DataError:
                remove(unfinished)  # the same will not be asked for again
                raise
            except OSError as error:
                # Where locks do not hold, another process may just have put its own, equal one there.
                shards = _opened(directory)
                if shards is None:
                    raise RunError(explain(error, directory)) from error
            finally:
                if not alone:  # nobody will know it again
                    remove(unfinished)
        remove(unfinished)
    return key, shards


def _opened(directory: Path) -> Shards | None:
    """The shards, or None when they are missing or damaged and so must be built."""
    try:
        return Shards(directory)
    except DataError:
        return None


@contextmanager
def _lock(directory: Path) -> Iterator[bool]:
    """Held by one process at a time, and let go when that process ends, however it ends; False where there are none."""
    path = directory.with_name(f"{directory.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise RunError(explain(error, path)) from error
    with file:
        yield _locked(file.fileno())


def _locked(descriptor: int) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:  # some network file systems have no locks
        return False
    return True
