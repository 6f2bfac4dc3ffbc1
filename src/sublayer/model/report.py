"""What a sublayer tells beside its output.

What is summed over tokens is told as sums, and what is a function of them (an auxiliary loss) is computed from sums of
as many tokens as it is meant for: of a batch, or of all micro-batches and ranks of a step.

A report is returned, never written into an argument or left on a module: side effects are lost or doubled under
recomputation, FSDP2 and compilation.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch.utils._pytree as pytree
from torch import Tensor

from sublayer.model.names import below


@dataclass(frozen=True)
class Report:
    """Auxiliary losses, what they are made from, counts and maps, by name.

    Attributes:
        losses: scalars to be added to the training loss, each a mean over the batch's tokens.
        sums: sums over tokens, through which gradients go, that `Sublayer.auxiliary` makes losses from.
        counts: sums over tokens without a gradient, such as tokens by expert.
        attention: attention weights [B, H, T, S] by the layer's name, where `want` asked for them.
        routing: what routers decided, [B, T, E] by the layer's name and the quantity, where `want` asked for it.
    """

    losses: Mapping[str, Tensor] = field(default_factory=dict)
    sums: Mapping[str, Tensor] = field(default_factory=dict)
    counts: Mapping[str, Tensor] = field(default_factory=dict)
    attention: Mapping[str, Tensor] = field(default_factory=dict)
    routing: Mapping[str, Tensor] = field(default_factory=dict)

    def __add__(self, other: "Report") -> "Report":
        """Both together; losses, sums and counts of the same name are summed."""
        return Report(
            summed(self.losses, other.losses),
            summed(self.sums, other.sums),
            summed(self.counts, other.counts),
            {**self.attention, **other.attention},
            {**self.routing, **other.routing},
        )

    def under(self, prefix: str) -> "Report":
        """The same report with every name prefixed, so that layers stay apart."""
        return self._each(lambda part: {f"{prefix}.{name}": value for name, value in part.items()})

    def below(self, prefix: str) -> "Report":
        """What one of the layers told: the part whose names have this prefix, without it."""
        return self._each(lambda part: below(f"{prefix}.", part))

    def _each(self, change: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]) -> "Report":
        return Report(*map(change, (self.losses, self.sums, self.counts, self.attention, self.routing)))


def summed(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values of both, those of the same name added."""
    total = dict(left)
    for name, value in right.items():
        total[name] = total[name] + value if name in total else value
    return total


pytree.register_dataclass(Report)

EMPTY = Report()
