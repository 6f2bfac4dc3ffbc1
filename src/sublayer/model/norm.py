"""Normalisation: LayerNorm and RMSNorm.

Shapes: B batch, T tokens, D d_model.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sublayer.config import Flag, Positive
from sublayer.model.initialise import Constant, Rule
from sublayer.model.part import ModelPart
from sublayer.registry import Registry

FEW = 1 << 14
"""Numbers in the input up to which RMSNorm takes its fewest operations rather than the fewest passes over memory."""


class NormConfig(ModelPart):
    """Base of the norms."""

    registry: ClassVar[Registry[Any]] = Registry("norm")

    def build(self, width: int) -> nn.Module:
        """The module, for inputs [..., width]."""
        raise NotImplementedError


@NormConfig.registry.register
class LayerNormConfig(NormConfig):
    """Subtract the mean, divide by the standard deviation, scale and shift."""

    paper: ClassVar[str] = "Ba et al. 2016, equation 3"

    kind: Literal["layer"] = "layer"
    epsilon: Positive = 1e-5
    """Added to the variance."""
    bias: Flag = True
    """Learn a shift as well as a scale."""

    def build(self, width: int) -> nn.Module:
        return LayerNorm(self, width)


@NormConfig.registry.register
class RMSNormConfig(NormConfig):
    """Divide by the root mean square and scale; no mean is subtracted."""

    paper: ClassVar[str] = "Zhang and Sennrich 2019, equation 4"

    kind: Literal["rms"] = "rms"
    epsilon: Positive = 1e-6
    """Added to the mean square."""

    def build(self, width: int) -> nn.Module:
        return RMSNorm(self, width)


NormChoice = Annotated[NormConfig, NormConfig.registry.choice()]


class LayerNorm(nn.Module):
    """γ·(x − mean)/√(var + ε) + β over the last dimension."""

    def __init__(self, config: LayerNormConfig, width: int) -> None:
        super().__init__()
        self.epsilon = config.epsilon
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width)) if config.bias else None

    def forward(self, x_BTD: Tensor) -> Tensor:
        return F.layer_norm(x_BTD, self.weight.shape, self.weight, self.bias, self.epsilon)

    def initial_values(self) -> Mapping[str, Rule]:
        return {"weight": Constant(1.0), "bias": Constant(0.0)}


class RMSNorm(nn.Module):
    """γ·x/√(mean(x²) + ε) over the last dimension."""

    def __init__(self, config: RMSNormConfig, width: int) -> None:
        super().__init__()
        self.epsilon = config.epsilon
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x_BTD: Tensor) -> Tensor:
        if x_BTD.device.type == "cpu" and x_BTD.numel() <= FEW and not torch.is_grad_enabled():
            # Torch's CPU kernels fuse LayerNorm but not RMSNorm, which counts in a decoding step.  Of x beside −x the
            # mean is 0 and the variance the mean square.
            both = F.layer_norm(torch.cat([x_BTD, -x_BTD], dim=-1), (2 * x_BTD.shape[-1],), eps=self.epsilon)
            return both[..., : x_BTD.shape[-1]] * self.weight
        return F.rms_norm(x_BTD, self.weight.shape, self.weight, self.epsilon)

    def initial_values(self) -> Mapping[str, Rule]:
        return {"weight": Constant(1.0)}


def normalised(norm: nn.Module, x: Tensor) -> Tensor:
    """A norm's output in the dtype of `x`; under autocast the norm is computed in float32, as its weights are."""
    y: Tensor = norm(x.float() if torch.is_autocast_enabled(x.device.type) else x)
    return y.to(x.dtype)
