"""Where the time of a run goes."""

import time
from collections.abc import Mapping
from typing import Literal

Stage = Literal["data", "forward", "backward", "update", "evaluation", "saving", "figures"]


class Clock:
    """Wall time by stage: each lap belongs to the stage that it ends.

    On a GPU, work goes on after the call that asked for it, so a stage there is what the program waited in it.
    """

    def __init__(self) -> None:
        self._seconds: dict[Stage, float] = {}
        self._last = time.monotonic()

    def lap(self, stage: Stage) -> None:
        """Count the time since the last lap for a stage."""
        self.divide({stage: 1.0})

    def divide(self, parts: Mapping[Stage, float]) -> None:
        """Count the time since the last lap for several stages, in these proportions."""
        now = time.monotonic()
        whole = sum(parts.values()) or 1.0
        for stage, part in parts.items():
            self._seconds[stage] = self._seconds.get(stage, 0.0) + (now - self._last) * part / whole
        self._last = now

    @property
    def seconds(self) -> Mapping[str, float]:
        """By stage, the largest first."""
        return dict(sorted(self._seconds.items(), key=lambda item: -item[1]))
