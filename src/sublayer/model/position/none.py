"""No position encoding."""

from typing import ClassVar, Literal

from sublayer.model.part import Heads, StackShape
from sublayer.model.position.base import Position, PositionConfig


@PositionConfig.registry.register
class NoPositionConfig(PositionConfig):
    """Nothing: a decoder tells positions from the causal mask alone, an encoder not at all."""

    paper: ClassVar[str] = "Haviv et al. 2022; Kazemnejad et al. 2023"
    shift_invariant: ClassVar[bool] = True

    kind: Literal["none"] = "none"

    def build(self, shape: StackShape, heads: Heads) -> Position:
        return Position()
