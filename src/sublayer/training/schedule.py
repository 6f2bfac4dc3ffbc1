"""Learning-rate schedules: the share of the full rate at each step.

All begin with a linear warm-up from zero.  A schedule is a pure function of the step, so resuming cannot shift it.
"""

import math
from typing import Annotated, Any, ClassVar, Literal

from sublayer.config import Count, Share, Whole
from sublayer.registry import PartConfig, Registry


class ScheduleConfig(PartConfig):
    """Base of the schedules."""

    registry: ClassVar[Registry[Any]] = Registry("schedule")

    warmup: Whole = 0
    """Steps in which the rate rises linearly from zero to its full height."""

    def factor(self, step: int, steps: int) -> float:
        """The share of the full rate for step number `step` (from 0) of `steps`."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        remaining = max(1, steps - self.warmup)
        return self.after_warmup(min(1.0, (step - self.warmup) / remaining))

    def after_warmup(self, done: float) -> float:
        """The share of the full rate when `done` (0 … 1) of the steps behind the warm-up are done."""
        raise NotImplementedError


ScheduleChoice = Annotated[ScheduleConfig, ScheduleConfig.registry.choice()]


@ScheduleConfig.registry.register
class CosineConfig(ScheduleConfig):
    """Half a cosine from the full rate down."""

    paper: ClassVar[str] = "Loshchilov and Hutter 2017, equation 5, without restarts"

    kind: Literal["cosine"] = "cosine"
    floor: Share = 0.1
    """Share of the full rate at the end."""

    def after_warmup(self, done: float) -> float:
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2


@ScheduleConfig.registry.register
class LinearConfig(ScheduleConfig):
    """A straight line from the full rate down."""

    paper: ClassVar[str] = "Devlin et al. 2018, appendix A.2"

    kind: Literal["linear"] = "linear"
    floor: Share = 0.0
    """Share of the full rate at the end."""

    def after_warmup(self, done: float) -> float:
        return 1 - (1 - self.floor) * done


@ScheduleConfig.registry.register
class ConstantConfig(ScheduleConfig):
    """The full rate to the end."""

    kind: Literal["constant"] = "constant"

    def after_warmup(self, done: float) -> float:
        return 1.0


@ScheduleConfig.registry.register
class WarmupStableDecayConfig(ScheduleConfig):
    """The full rate for most of the time, then a straight line down."""

    paper: ClassVar[str] = "Hu et al. 2024 (MiniCPM), section 4.3; Hägele et al. 2024"

    kind: Literal["wsd"] = "wsd"
    decay: Share = 0.2
    """Share of the steps behind the warm-up in which the rate falls."""
    floor: Share = 0.0
    """Share of the full rate at the end."""

    def after_warmup(self, done: float) -> float:
        left = (1 - done) / self.decay if self.decay else 1.0
        return 1.0 if left >= 1 else self.floor + (1 - self.floor) * left


@ScheduleConfig.registry.register
class InverseSquareRootConfig(ScheduleConfig):
    """√(warmup/step) of the full rate, whatever the number of steps."""

    paper: ClassVar[str] = "Vaswani et al. 2017, equation 3, where the full rate is (d_model·warmup)^−½"

    kind: Literal["inverse_sqrt"] = "inverse_sqrt"
    warmup: Count = 4000
    """Steps in which the rate rises linearly from zero to its full height, and from which it falls."""

    def factor(self, step: int, steps: int) -> float:
        return min((step + 1) / self.warmup, math.sqrt(self.warmup / (step + 1)))
