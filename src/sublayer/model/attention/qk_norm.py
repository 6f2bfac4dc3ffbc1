"""Normalised queries and keys, which keep scores from growing without bound.

Shapes: B batch, T tokens, H heads, K head width, E features of all heads together.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator
from torch import nn

from sublayer.model.norm import NormChoice, RMSNormConfig
from sublayer.model.part import ModelPart
from sublayer.registry import Registry


class QkNormConfig(ModelPart):
    """Base of the norms of queries and keys."""

    registry: ClassVar[Registry[Any]] = Registry("qk_norm")

    divided: ClassVar[bool] = False
    """Acts on the heads [B, H, T, K], and not on their features together [B, T, E]."""

    def build(self, n_heads: int, d_head: int) -> nn.Module | None:
        """The norm of this many heads; None for none."""
        raise NotImplementedError


@QkNormConfig.registry.register
class NoQkNormConfig(QkNormConfig):
    """Queries and keys as they are projected."""

    paper: ClassVar[str] = "Vaswani et al. 2017, section 3.2.1"

    kind: Literal["none"] = "none"

    def build(self, n_heads: int, d_head: int) -> None:
        return None


@QkNormConfig.registry.register
class HeadNormConfig(QkNormConfig):
    """Each head's query and key by itself, before it is rotated; heads share the scale (Qwen 3, Gemma 3)."""

    paper: ClassVar[str] = "Henry et al. 2020, section 3.3; Dehghani et al. 2023, equation 1"
    divided: ClassVar[bool] = True

    kind: Literal["head"] = "head"
    norm: NormChoice = RMSNormConfig()
    """The norm, over d_head features."""

    def build(self, n_heads: int, d_head: int) -> nn.Module:
        return self.norm.build(d_head)


@QkNormConfig.registry.register
class AllHeadsNormConfig(QkNormConfig):
    """The queries of all heads together, and the keys likewise, before they are divided and rotated (OLMo 2)."""

    paper: ClassVar[str] = "OLMo Team 2024, section 3.2"

    kind: Literal["all_heads"] = "all_heads"
    norm: NormChoice = RMSNormConfig()
    """The norm, over n_heads·d_head or n_kv_heads·d_head features."""

    def build(self, n_heads: int, d_head: int) -> nn.Module:
        return self.norm.build(n_heads * d_head)


def _named(value: Any) -> Any:
    return {True: "head", False: "none"}[value] if isinstance(value, bool) else value


QkNormChoice = Annotated[QkNormConfig, QkNormConfig.registry.choice(), BeforeValidator(_named)]
"""`true` stands for `head`, and `false` for `none`."""
