"""NTK-aware scaling by the length of the text."""

from typing import ClassVar, Literal, Self

from torch import Tensor

from sublayer.config import Count
from sublayer.model.part import CacheExact, StackShape
from sublayer.model.position.scaling.base import Factor, ScalingConfig
from sublayer.model.position.scaling.ntk import ntk_scaled, refuse_one_pair


@ScalingConfig.registry.register
class DynamicNtkConfig(ScalingConfig):
    """As ntk, but only for texts longer than in training, and the more the longer they are.

    The length is that of the token's own document, up to its last token in the batch.  A cache holds keys as they were
    rotated when the text was shorter, so decoding is exact up to the length in training.
    """

    paper: ClassVar[str] = "emozilla 2023; Peng et al. 2023, section 3.3"
    shift_invariant: ClassVar[bool] = False
    by_length: ClassVar[bool] = True

    kind: Literal["dynamic_ntk"] = "dynamic_ntk"
    factor: Factor = 1.0
    """s: a text of L tokens, trained on L₀, is scaled by s·L/L₀ − (s − 1)."""
    original_length: Count | None = None
    """Length of texts in training, in tokens; left out, max_length."""

    def filled(self, shape: StackShape) -> Self:
        return self.model_copy(update={"original_length": self.original_length or shape.max_length})

    def cache_exact(self, shape: StackShape) -> CacheExact:
        return CacheExact(length=self.original_length or shape.max_length)

    def check(self, theta: float, width: int) -> None:
        refuse_one_pair(self.kind, width)

    def frequencies(self, base_F: Tensor, theta: float, length_BT: Tensor | None) -> Tensor:
        assert length_BT is not None and self.original_length is not None
        longer = (length_BT / self.original_length).clamp(min=1)
        return ntk_scaled(base_F, (self.factor * longer - (self.factor - 1))[..., None])
