"""A pool of threads that compute shares of a step side by side, each on cores of its own.

On a CPU this is faster than letting all cores work on one operation after the other: the operations of a small model
are short, and at the end of each all cores wait for the slowest.  It matters most on a machine that has something else
to do as well (benchmarks/threads.py).  The shares and the order in which they are summed are fixed, so results are too.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, Self, TypeVar

import torch

from sublayer.errors import ConfigError, RunError

Item = TypeVar("Item")
Result = TypeVar("Result")


def choose_threads(asked: int | Literal["auto"], batch_size: int, device: torch.device, compiled: bool) -> int:
    """How many shares are computed side by side.

    Args:
        asked: a number, or auto: on a CPU one a core that torch uses, but no more than there are sequences; else one.
        batch_size: sequences that can be divided.
        device: where the model is.
        compiled: whether it is compiled.

    Raises:
        ConfigError: when several are asked for where only one can be.
    """
    alone = device.type != "cpu" or compiled
    if asked == "auto":
        return 1 if alone else max(1, min(torch.get_num_threads(), batch_size))
    if asked > 1 and alone:
        place = "compiled" if compiled else f"on {device.type}"
        raise ConfigError(f"training.threads: is {asked}, but a model {place} is trained by one; choose 1 or auto.")
    return asked


class Crew:
    """Runs a function over items in several threads, and gives the results in the order of the items.

    A model that draws random numbers (dropout) draws them from one stream, whose order between threads would be chance.
    So the first items are worked on one after the other; if they draw, so is everything that follows.

    Args:
        threads: how many; with 1 everything runs in the caller's.
        cores: torch's own threads in each; left out, the cores that torch uses now, divided.
    """

    def __init__(self, threads: int, cores: int | None = None) -> None:
        self.threads = threads
        self.cores = cores or max(1, torch.get_num_threads() // threads)
        self._pool: ThreadPoolExecutor | None = None
        self._draws: bool | None = None
        self._cores_before = torch.get_num_threads()

    def __enter__(self) -> Self:
        torch.set_num_threads(self.cores)
        if self.threads > 1:
            # Torch keeps the number of its threads for each thread that calls it.
            self._pool = ThreadPoolExecutor(self.threads, initializer=lambda: torch.set_num_threads(self.cores))
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        torch.set_num_threads(self._cores_before)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The results of a function that draws no random numbers."""
        if self._pool is None:
            yield from map(function, items)
            return
        # A few items ahead of the one that is waited for, so that neither items nor results pile up.
        ahead: deque[Future[Result]] = deque()
        for item in items:
            ahead.append(self._pool.submit(function, item))
            if len(ahead) > 2 * self.threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def map_training(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The results of a function that may draw random numbers.

        Raises:
            RunError: when it drew none at first and draws some later, in several threads.
        """
        if self._pool is None or self._draws:
            yield from map(function, items)
            return
        before = torch.get_rng_state()
        if self._draws is None:
            yield from map(function, items)
            self._draws = not torch.equal(before, torch.get_rng_state())
            return
        yield from self.map(function, items)
        if not torch.equal(before, torch.get_rng_state()):
            raise RunError(
                "a part of the model began to draw random numbers after the first step, whose order between threads is "
                "chance; set training.threads: 1."
            )

    def together(self, actions: Iterable[Callable[[], object]]) -> None:
        """Run actions that draw nothing and touch nothing in common."""
        for _ in self.map(lambda action: action(), actions):
            pass
