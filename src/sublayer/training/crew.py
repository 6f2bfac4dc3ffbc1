"""Threads that compute shares of a step side by side, each on cores of its own.

On a CPU this is much faster than letting all cores work on one operation after the other: the operations of a small
model are short, and at the end of each all cores would wait for the slowest.  It matters most on a machine that has
something else to do as well.  The shares and the order in which they are summed are fixed, so results are too.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, Self, TypeVar

import torch

from sublayer.errors import RunError

Item = TypeVar("Item")
Result = TypeVar("Result")


def choose_workers(asked: int | Literal["auto"], batch_size: int, device: torch.device, compiled: bool) -> int:
    """How many threads to use: those asked for, or on a CPU one a core, but no more than there are sequences."""
    if asked != "auto":
        return asked
    if device.type != "cpu" or compiled:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, batch_size))


class Crew:
    """Runs a function over items in several threads.

    A model that draws random numbers (dropout) draws them from one stream, whose order between threads would be chance.
    So the first items are worked on one after the other; if they draw, so is everything that follows.

    Args:
        workers: threads; with 1 everything runs in the caller's.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ThreadPoolExecutor | None = None
        self._draws: bool | None = None
        self._threads_before = torch.get_num_threads()

    def __enter__(self) -> Self:
        if self.workers > 1:
            each = max(1, self._threads_before // self.workers)
            torch.set_num_threads(each)
            # PyTorch keeps the number of threads for each thread that calls it.
            self._pool = ThreadPoolExecutor(self.workers, initializer=lambda: torch.set_num_threads(each))
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            torch.set_num_threads(self._threads_before)
            self._pool = None

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The results of a function that draws no random numbers, in the order of the items."""
        yield from map(function, items) if self._pool is None else self._pool.map(function, items)

    def map_training(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The same for a function that may draw some.

        Raises:
            RunError: when a model that drew no random numbers at first draws some later, in several threads.
        """
        if self._pool is None or self._draws:
            yield from map(function, items)
            return
        before = torch.get_rng_state()
        if self._draws is None:
            results = [function(item) for item in items]
            self._draws = not torch.equal(before, torch.get_rng_state())
            yield from results
            return
        yield from self._pool.map(function, items)
        if not torch.equal(before, torch.get_rng_state()):
            raise RunError(
                "a part of the model began to draw random numbers after the first step, whose order between threads is "
                "chance; set training.workers: 1."
            )

    def together(self, actions: Iterable[Callable[[], object]]) -> None:
        """Run actions that draw nothing and touch nothing in common."""
        if self._pool is None:
            for action in actions:
                action()
        else:
            list(self._pool.map(lambda action: action(), actions))
