"""What a scaling does to rotary frequencies, so that a model reads longer texts than it was trained on.

Shapes: B batch, T tokens, F = d / 2 pairs of features, with d the rotated width.
"""

from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from sublayer.config import Positive
from sublayer.model.part import ModelPart, StackShape
from sublayer.registry import Registry

Factor = Annotated[Positive, Field(ge=1)]
"""How many times as long as in training texts may be."""

USUAL = 4.0
"""A factor where none is stated."""


class ScalingConfig(ModelPart):
    """Base of the scalings."""

    registry: ClassVar[Registry[Any]] = Registry("scaling")

    shift_invariant: ClassVar[bool] = True
    """Adding a constant to all positions changes nothing."""
    by_length: ClassVar[bool] = False
    """The frequencies depend on how long the text is."""

    @property
    def amplitude(self) -> float:
        """What cosine and sine are both multiplied by; scores by its square."""
        return 1.0

    def check(self, theta: float, width: int) -> None:
        """Refuse a base or a rotated width that it is not defined for.

        Raises:
            ValueError: in one sentence, with what to change.
        """

    def frequencies(self, base_F: Tensor, theta: float, length_BT: Tensor | None) -> Tensor:
        """Radians a position of each pair.

        Args:
            base_F: the frequencies that are scaled, θ^(−2i/d), in float32.
            theta: θ.
            length_BT: [1 or B, T or 1] tokens in the document of each token; None unless `by_length`.

        Returns:
            [F], or with lengths [1 or B, T or 1, F].
        """
        raise NotImplementedError


ScalingChoice = Annotated[ScalingConfig, ScalingConfig.registry.choice()]


def stretched(factor: float | None, original_length: int | None, shape: StackShape) -> tuple[float, int]:
    """The factor and the length in training, of which max_length, their product, gives what was left out.

    Raises:
        ValueError: when the training was longer than max_length.
    """
    if original_length is None:
        factor = factor or USUAL
        return factor, max(1, round(shape.max_length / factor))
    if factor is None:
        factor = shape.max_length / original_length
        if factor < 1:
            raise ValueError(
                f"original_length ({original_length}) is beyond max_length ({shape.max_length}), so there is nothing "
                "to scale; raise max_length or leave the scaling out"
            )
    return factor, original_length
