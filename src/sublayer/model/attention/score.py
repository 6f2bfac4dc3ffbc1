"""Changes to attention scores, typed by what they need, so that a kernel can say which it carries.

Shapes: B batch, H heads, T queries, S keys.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sublayer.model.layout import Span


class ScoreChange(ABC):
    """Something added to the scaled scores before the softmax, and to the output behind it where it says so."""

    changes_values: ClassVar[bool] = False
    """Whether it also adds to the output what `values` gives; only kernels with the weights at hand can carry that."""

    @abstractmethod
    def dense(self, span: Span) -> Tensor:
        """The addition as one tensor [1 or B, H, T, S], in float32 at least."""

    def values(self, weights_BHTS: Tensor, span: Span) -> Tensor:
        """What attention with these weights adds to the output, [B, H, T, K]."""
        raise NotImplementedError


@dataclass(frozen=True)
class OffsetBias(ScoreChange):
    """An addition that depends on the head and on how far back the key lies.

    Attributes:
        name: the same for equal biases; layers with the same name and span share the dense form.
        at: offsets [..., T, S] (query position − key position, int64) → additions [..., H, T, S] in float32.
        learned: has parameters, so that its dense form belongs to one layer's graph and is not shared.
    """

    name: str
    at: Callable[[Tensor], Tensor]
    learned: bool = False

    def dense(self, span: Span) -> Tensor:
        if self.learned:
            return self.at(span.offsets())
        return span.once(f"bias {self.name}", lambda: self.at(span.offsets()))
