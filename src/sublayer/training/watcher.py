"""Callbacks for progress: a bar on a terminal, plain lines elsewhere."""

import math
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.progress import TimeRemainingColumn as TimeLeft

from sublayer.measures.score import Score


class Watcher:
    """The callbacks of a run; this one stays silent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def preparing(self, stage: str, done: float, bytes_per_second: float = 0.0) -> None:
        """Data preparation: the stage, how much of it is done (0 … 1), and how fast; 0 where that says nothing."""

    def started(self, step: int, steps: int, note: str) -> None:
        """Training begins behind `step` of `steps`."""

    def trained(self, step: int, loss: float, tokens_per_second: float) -> None:
        """A step is done."""

    def evaluated(self, step: int, results: Mapping[str, Score]) -> None:
        """Held-out text was read."""

    def noticed(self, note: str) -> None:
        """Something a person should know."""

    def close(self) -> None:
        """Nothing more will come."""


class Bar(Watcher):
    """A progress bar with loss, tokens a second and the time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._stage = ""
        self._loss = 0.0
        self._steps_seen = 0

    def preparing(self, stage: str, done: float, bytes_per_second: float = 0.0) -> None:
        if stage != self._stage:
            self._new_bar(TextColumn("{task.percentage:>3.0f}%"))
            assert self._bar is not None
            self._stage, self._task = stage, self._bar.add_task(stage, total=1.0, figures="")
        if self._bar is not None and self._task is not None:
            rate = f"{bytes_per_second / 1e6:.1f} MB/s" if bytes_per_second else ""
            self._bar.update(self._task, completed=done, figures=rate)

    def started(self, step: int, steps: int, note: str) -> None:
        self._new_bar(MofNCompleteColumn())
        self._stage = ""
        assert self._bar is not None
        self._console.print(note, highlight=False, markup=False)
        self._task = self._bar.add_task("training", total=steps, completed=step, figures="")

    def trained(self, step: int, loss: float, tokens_per_second: float) -> None:
        # Shown smoothed over about twenty steps, skipped ones left out; the file of figures holds each step's own.
        if math.isfinite(loss):
            self._steps_seen += 1
            self._loss += (loss - self._loss) * max(0.05, 1 / self._steps_seen)
        if self._bar is not None and self._task is not None:
            figures = f"loss {self._loss:.3f}  {tokens_per_second:,.0f} tokens/s"
            self._bar.update(self._task, completed=step, figures=figures)

    def evaluated(self, step: int, results: Mapping[str, Score]) -> None:
        self._console.print(f"step {step:>6}  {held_out_line(results)}", highlight=False, markup=False)

    def noticed(self, note: str) -> None:
        self._console.print(note, highlight=False, markup=False)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._fill()
        self.close()

    def _fill(self) -> None:
        """What was being prepared is done when something else begins, whatever was last told of it."""
        if self._bar is not None and self._stage and self._task is not None:
            self._bar.update(self._task, completed=1.0)

    def _new_bar(self, count: TextColumn | MofNCompleteColumn) -> None:
        self._fill()
        self.close()
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), count)
        self._bar = Progress(*columns, TextColumn("{task.fields[figures]}"), TimeLeft(), console=self._console)
        self._bar.start()


class Lines(Watcher):
    """A line every few seconds, for logs and pipes."""

    def __init__(self, console: Console, every_seconds: float = 10.0) -> None:
        self._console = console
        self._every = every_seconds
        self._last = 0.0
        self._stage = ""
        self._steps = 0
        self._began = (0.0, 0.0)

    def preparing(self, stage: str, done: float, bytes_per_second: float = 0.0) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._began, self._last = stage, (done, now), now
            self._print(f"{stage} …")
        elif now - self._last >= self._every and 0 < done < 1:
            self._last = now
            rate = f"  {bytes_per_second / 1e6:.1f} MB/s" if bytes_per_second else ""
            self._print(f"{stage} {done:.0%}{rate}  {self._left(done, 1.0)}")

    def started(self, step: int, steps: int, note: str) -> None:
        self._steps, self._began = steps, (step, time.monotonic())
        self._print(note)

    def trained(self, step: int, loss: float, tokens_per_second: float) -> None:
        now = time.monotonic()
        if now - self._last >= self._every or step == self._steps:
            self._last = now
            self._print(
                f"step {step}/{self._steps}  loss {loss:.3f}  {tokens_per_second:,.0f} tokens/s  "
                f"{self._left(step, self._steps)}"
            )

    def evaluated(self, step: int, results: Mapping[str, Score]) -> None:
        self._print(f"step {step}/{self._steps}  {held_out_line(results)}")

    def noticed(self, note: str) -> None:
        self._print(note)

    def _left(self, done: float, all_of_it: float) -> str:
        """The time left, if it goes on as since the beginning."""
        first, began = self._began
        seconds = int((time.monotonic() - began) / max(1e-9, done - first) * (all_of_it - done))
        return f"{seconds // 60}:{seconds % 60:02d} left"

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def held_out_line(results: Mapping[str, Score]) -> str:
    """The held-out figures in one line."""
    return "held-out: " + "; ".join(f"{domain} {in_words(part)}" for domain, part in results.items())


def in_words(score: Score) -> str:
    """The figures of one domain."""
    told = [f"{score.loss:.3f} nats"]
    if score.bits_per_byte is not None:
        told.append(f"{score.bits_per_byte:.3f} bits/byte")
    if score.accuracy is not None:
        told.append(f"{score.accuracy:.1%} right")
    return ", ".join(told)
