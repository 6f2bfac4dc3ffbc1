"""Processes that tokenize chunks side by side, one a core."""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from sublayer.errors import RunError

MOST = 32
"""Processes at most: each takes about a hundred megabytes, and one process reads what they write."""


def n_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """Some processes of `sublayer.data.worker`.

    They end when this process does, however it ends.

    Args:
        count: how many.
        tokenizer_directory: for each to read.

    Raises:
        RunError: when they cannot be started.
    """

    def __init__(self, count: int, tokenizer_directory: Path) -> None:
        # They import from where this process does; -P keeps them from the working directory, where anything may lie.
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path),  # noqa: PTH100 (no links followed)
            "TOKENIZERS_PARALLELISM": "false",
        }
        command = [sys.executable, "-P", "-m", "sublayer.data.worker", str(tokenizer_directory)]
        self._processes: list[subprocess.Popen[str]] = []
        self._threads: list[threading.Thread] = []
        try:
            for _ in range(count):
                self._processes.append(
                    subprocess.Popen(
                        command,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE,
                        text=True,
                        env=environment,
                    )
                )
        except OSError as error:
            self._end()
            raise RunError(f"a process that tokenizes could not be started: {error.strerror or error}.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def each(self, orders: Sequence[str]) -> Iterator[int]:
        """Have every order done; gives the number of each as it is done, in whatever order that is.

        Raises:
            RunError: when one fails, or a process dies.
        """
        waiting: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
        for number, order in enumerate(orders):
            waiting.put((number, order))
        done: queue.SimpleQueue[int | BaseException] = queue.SimpleQueue()
        for process in self._processes:
            self._threads.append(threading.Thread(target=_serve, args=(process, waiting, done), daemon=True))
            self._threads[-1].start()
        for _ in orders:
            result = done.get()
            if isinstance(result, BaseException):
                raise result
            yield result

    def _end(self) -> None:
        for process in self._processes:
            process.kill()  # what it may be working on is written aside, so nothing is left half-done
        for thread in self._threads:
            thread.join()
        for process in self._processes:
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


def _serve(
    process: subprocess.Popen[str],
    waiting: "queue.SimpleQueue[tuple[int, str]]",
    done: "queue.SimpleQueue[int | BaseException]",
) -> None:
    """Hand orders to a process, one at a time, until none is left."""
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    try:
        while True:
            try:
                number, order = waiting.get_nowait()
            except queue.Empty:
                return
            process.stdin.write(order + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise BrokenPipeError
            answer = json.loads(line)
            if "failed" in answer:
                raise RunError(answer["failed"])
            if "broken" in answer:
                raise RuntimeError(f"a process that tokenizes failed:\n{answer['broken']}")
            done.put(number)
    except BrokenPipeError:
        code = process.wait()
        said = process.stderr.read().strip().splitlines()
        why = (
            f"was killed by signal {-code}, as when memory runs out"
            if code < 0
            else (said or [f"left with {code}"])[-1]
        )
        done.put(
            RunError(f"a process that tokenizes ended early ({why}); start again, and the work goes on from here.")
        )
    except Exception as error:
        done.put(error)
