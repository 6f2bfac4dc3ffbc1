"""The command line in processes of its own, which can be killed.

They are forked from one process that has torch imported already, so each costs a tenth of a second.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["sublayer.api", "torch.distributed.checkpoint.hf_storage", __name__])

LIMIT = 120
"""Seconds after which a process is taken to hang."""


def wrap(function: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put a wrapper in the place of "module:name" or "module:Class.name"."""
    module, _, path = function.partition(":")
    holder: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        holder = getattr(holder, parent)
    setattr(holder, name, wrapper(getattr(holder, name)))


@dataclass(frozen=True)
class Kill:
    """SIGKILL in the n-th call of a function.

    Attributes:
        function: "module:name" or "module:Class.name".
        call: which call, from 1.
        when: in front of what it does, behind it, or behind it with the last written file cut to half its size.
    """

    function: str
    call: int = 1
    when: Literal["before", "after", "half"] = "before"

    def plant(self) -> None:
        calls = 0

        def wrapper(real: Callable[..., Any]) -> Callable[..., Any]:
            def deadly(*arguments: Any, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == self.call and self.when == "before":
                    os.kill(os.getpid(), signal.SIGKILL)
                result = real(*arguments, **options)
                if calls == self.call:
                    if self.when == "half":
                        file = next(Path(value) for value in arguments if isinstance(value, str | Path))
                        os.truncate(file, file.stat().st_size // 2)
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return deadly

        wrap(self.function, wrapper)


class Started:
    """A started command line."""

    def __init__(self, process: BaseProcess, log: Path) -> None:
        self._process, self._log = process, log

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self) -> int:
        """The exit code; −n when signal n ended it."""
        self._process.join(LIMIT)
        if self._process.exitcode is None:
            self._process.kill()
            raise AssertionError(f"the process did not end:\n{self.out}{self.err}")
        return self._process.exitcode

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until something can be seen of the running process."""
        until = time.monotonic() + LIMIT
        while not condition():
            assert self._process.is_alive(), f"it ended with {self._process.exitcode}:\n{self.out}{self.err}"
            assert time.monotonic() < until, "it does not come"
            time.sleep(0.005)

    @property
    def out(self) -> str:
        return self._log.with_suffix(".out").read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        return self._log.with_suffix(".err").read_text(encoding="utf-8")


def start(arguments: list[str | Path], folder: Path, *before: Callable[[], None]) -> Started:
    """Start `sublayer arguments…`.

    Args:
        arguments: of the command line.
        folder: where it runs, with its output beside.
        before: what the process calls first, such as `Kill(…).plant`.
    """
    number = len(list(folder.glob("*.out")))
    log = folder / f"process-{number}"
    environment = {name: os.environ[name] for name in ("SUBLAYER_CACHE",)}
    # Not a daemon: that is ended with SIGTERM when the tests end, and no process is left behind anyhow.
    process = CONTEXT.Process(target=_run, args=([str(each) for each in arguments], folder, log, environment, before))
    process.start()
    return Started(process, log)


def _run(
    arguments: list[str], folder: Path, log: Path, environment: dict[str, str], before: tuple[Callable[[], None], ...]
) -> None:
    for descriptor, suffix in ((1, ".out"), (2, ".err")):
        file = os.open(log.with_suffix(suffix), os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(file, descriptor)
    os.environ.update(environment)
    os.chdir(folder)
    import torch

    import sublayer.api
    from sublayer.cli import main

    torch.set_num_threads(1)
    sublayer.api.draw_curve = lambda *_: None  # type: ignore[assignment]
    for each in before:
        each()
    try:
        main(arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
