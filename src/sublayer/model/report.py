"""What a sublayer tells beside its output.

A report is returned, never written into an argument or left on a module: side effects are lost or doubled under
recomputation, FSDP2 and compilation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch.utils._pytree as pytree
from torch import Tensor


@dataclass(frozen=True)
class Report:
    """Auxiliary losses, counts and attention maps, by name.

    Attributes:
        losses: scalars to be added to the training loss.
        counts: tensors to be summed over micro-batches and ranks, such as tokens by expert.
        attention: attention weights [B, H, T, S] by the layer's name, where `want` asked for them.
    """

    losses: Mapping[str, Tensor] = field(default_factory=dict)
    counts: Mapping[str, Tensor] = field(default_factory=dict)
    attention: Mapping[str, Tensor] = field(default_factory=dict)

    def __add__(self, other: "Report") -> "Report":
        """Both together; losses and counts of the same name are summed."""
        return Report(
            _summed(self.losses, other.losses),
            _summed(self.counts, other.counts),
            {**self.attention, **other.attention},
        )

    def under(self, prefix: str) -> "Report":
        """The same report with every name prefixed, so that layers stay apart."""
        return Report(
            *({f"{prefix}.{k}": v for k, v in part.items()} for part in (self.losses, self.counts, self.attention))
        )


def _summed(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> dict[str, Tensor]:
    total = dict(left)
    for name, value in right.items():
        total[name] = total[name] + value if name in total else value
    return total


pytree.register_dataclass(Report)

EMPTY = Report()
