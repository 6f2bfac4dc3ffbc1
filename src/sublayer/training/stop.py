"""Leaving in good order on Ctrl-C and SIGTERM."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from sublayer.errors import RunError


class Stopped(RunError):
    """A run that was asked to stop, and saved its state first."""


class StopSignals:
    """While entered, SIGINT and SIGTERM set `name` instead of ending the process; a second one ends it at once.

    Outside the main thread, where Python delivers no signals, it does nothing.

    Args:
        told: called with the signal's name when the first comes.
    """

    def __init__(self, told: Callable[[str], None] | None = None) -> None:
        self.name: str | None = None
        self._told = told
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.name is not None:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
        if self._told is not None:
            self._told(self.name)
