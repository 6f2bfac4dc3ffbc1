"""The directory of a run: made, claimed by one process, and found again."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from sublayer.errors import ConfigError, RunError, SublayerError
from sublayer.files import explain, remove

try:
    import fcntl
except ImportError:  # Windows, where two processes in one directory are not noticed
    fcntl = None  # type: ignore[assignment]

RUNS = Path("runs")
CONFIG = "config.yaml"

_WORDS = """
amber arc birch brook cedar clay cliff coral cove dale dawn delta dune elm ember fern field fjord flint frost
glade grove harbor hazel heath hill isle ivy lake larch leaf loam maple marsh meadow mist moor moss oak ocean opal
orchard pearl pebble pine plain pond quartz rain reed ridge river sage shore slate snow spring spruce stone storm
stream summit thorn tide vale willow wind wood
""".split()


def new_directory(out: Path | None) -> Path:
    """A path for a new run; with no `out`, one named by the time and a short word below `runs/`.

    Raises:
        ConfigError: when something is there already.
    """
    if out is None:
        # The name is for people and changes nothing in the run, so it may be random.
        return RUNS / f"{datetime.now():%Y-%m-%d-%H%M%S}-{random.choice(_WORDS)}"
    if out.exists():
        raise ConfigError(
            f"--out: {out} exists already; choose another directory, or add --resume to go on with its run."
        )
    return out


def existing_directory(out: Path | None) -> Path:
    """The directory of a run to be resumed; with no `out`, the newest below `runs/`.

    Raises:
        ConfigError: when there is none.
    """
    if out is None:
        runs = [path for path in RUNS.glob("*") if (path / CONFIG).is_file()]
        if not runs:
            raise ConfigError("--resume: there is no run below runs/; name its directory with --out.")
        return max(runs, key=lambda path: (path / CONFIG).stat().st_mtime)
    if not (out / CONFIG).is_file():
        what = "delete it, or name another" if out.exists() else "leave --resume out to start one there"
        raise ConfigError(f"--resume: {out} holds no run (there is no {CONFIG} in it); {what}.")
    return out


@contextmanager
def made(directory: Path, resume: bool) -> Iterator[None]:
    """Make the directory of a run; a request found wrong before the first figures are written leaves none behind.

    Args:
        directory: of the run; its parents are made too.
        resume: it is there already, and stays.

    Raises:
        RunError: when it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=resume)
    except OSError as error:
        raise RunError(explain(error, directory)) from error
    try:
        yield
    except SublayerError as error:
        begun = any(path.stat().st_size for path in directory.glob("metrics.jsonl"))
        if error.exit_code == 2 and not resume and not begun:
            remove(directory)
        raise


@contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Hold `directory` for this process; the operating system lets go of it however the process ends.

    Raises:
        ConfigError: when another process trains in it.
    """
    with (directory / ".lock").open("w") as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ConfigError(f"another process is training in {directory}; wait for it or stop it.") from None
        yield
