"""Writing files so that a reader, or a run after a crash, never meets half of one; and reading what may be damaged."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sublayer.errors import RunError


@contextmanager
def written_aside(target: Path) -> Iterator[Path]:
    """A temporary sibling path that becomes `target` when the block ends well, and is removed when it does not.

    Works for a file or a directory; an existing `target` is replaced.  The data is on the disk before the rename.

    Raises:
        RunError: when the disk is full, the place cannot be written, or a device or a pipe is there; `target` is as it
            was before.
    """
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise RunError(f"{target} is no file that could be replaced, but a device or a pipe; name another place.")
    aside = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        remove(aside)
        target.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        put_in_place(aside, target)
    except OSError as error:
        raise RunError(explain(error, target)) from error
    finally:
        remove(aside)


def put_in_place(aside: Path, target: Path) -> None:
    """Make `aside` the file or directory `target`, in place of what may be there; its data is on the disk before.

    Raises:
        OSError: when the disk is full or the place cannot be written; `target` is as it was before.
    """
    _sync(aside)
    if aside.is_dir() and target.exists():
        # A directory cannot be renamed over another one, so the old one steps aside first.
        old = target.with_name(f".{target.name}.{os.getpid()}.old")
        remove(old)
        target.rename(old)
        try:
            aside.rename(target)
        except BaseException:
            old.rename(target)
            raise
        remove(old)
    else:
        aside.replace(target)
    _sync_entry(target.parent)


def json_mapping(path: Path) -> dict[str, Any]:
    """The mapping that a JSON file holds.

    Raises:
        OSError: when it cannot be read.
        ValueError: when it is damaged; the message says how, to stand in brackets.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(str(error)) from None
    if not isinstance(found, dict):
        raise ValueError("it holds no mapping")
    return found


def explain(error: OSError, path: Path) -> str:
    """One sentence for a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"the disk is full: {path} could not be written; free some space and start again."
    return f"{path} could not be written: {error.strerror or error}."


def remove(path: Path) -> None:
    """Delete a file or a directory, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(NotADirectoryError):  # one of its parents is a file, so it is not there
            path.unlink(missing_ok=True)


def remove_leftovers(directory: Path) -> None:
    """Delete what writers killed half-way left in `directory`; what had stepped aside for a successor that never came
    is put back."""
    for old in directory.glob(".*.old"):
        target = directory / old.name[1:].rsplit(".", 2)[0]
        if target.exists():
            remove(old)
        else:
            old.rename(target)
    for partial in directory.glob(".*.partial"):
        remove(partial)


def _sync(path: Path) -> None:
    for entry in [path, *path.rglob("*")] if path.is_dir() else [path]:
        if entry.is_dir():
            _sync_entry(entry)
        elif entry.is_file():
            with entry.open("rb") as handle:
                os.fsync(handle.fileno())


def _sync_entry(directory: Path) -> None:
    if os.name == "nt":  # where a directory cannot be opened, and its entries are written through
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
