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
        name: the same for equal biases; layers with the same name and span share the dense form.  None for one that no
            other layer has.
        at: offsets [..., T, S] (query position − key position, int64) → additions [..., H, T, S] in float32.
    """

    name: str | None
    at: Callable[[Tensor], Tensor]

    def dense(self, span: Span) -> Tensor:
        if self.name is None:
            return self.at(span.offsets())
        return span.once(f"bias {self.name}", lambda: self.at(span.offsets()))


def by_key(values_BHTR: Tensor, index_BTS: Tensor) -> Tensor:
    """For each query and key that one of the query's R values which `index` names, [1 or B, H, T, S].

    Args:
        values_BHTR: [1 or B, H, 1 or T, R], as many for each query.
        index_BTS: [1 or B, T, S], from 0 to R − 1 (int64).
    """
    n_rows = values_BHTR.shape[0] if index_BTS.shape[0] == 1 else index_BTS.shape[0]
    shape = (n_rows, values_BHTR.shape[1], index_BTS.shape[1])
    # Gathering has a far quicker gradient on a CPU than looking up an embedding for each pair.
    values = values_BHTR.expand(*shape, values_BHTR.shape[3])
    return values.gather(3, index_BTS[:, None].expand(*shape, index_BTS.shape[2]))
