"""AdamW."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from sublayer.config import NonNegative, Positive
from sublayer.training.optimizer.base import Named, Optimizer, OptimizerConfig, said_of, trained

Beta = Annotated[float, Field(ge=0, lt=1)]


@OptimizerConfig.registry.register
class AdamWConfig(OptimizerConfig):
    """Adam with decoupled weight decay, on matrices only."""

    paper: ClassVar[str] = "Loshchilov and Hutter 2019, algorithm 2; Kingma and Ba 2015"

    kind: Literal["adamw"] = "adamw"
    lr: Positive = 1e-3
    """Learning rate at the schedule's full height."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Decay of the running means of the gradient and of its square."""
    epsilon: Positive = 1e-8
    """Added to the root of the second mean."""
    weight_decay: NonNegative = 0.1
    """Share of a weight matrix that is taken away in each step, times lr; embeddings are matrices too, while norms and
    biases are spared."""

    def build(self, model: nn.Module) -> Optimizer:
        return Optimizer([self.member(model, trained(model))])

    def member(self, model: nn.Module, named: Named) -> tuple[torch.optim.Optimizer, list[str]]:
        """The torch optimizer of these parameters of a model, and their names in its order."""
        spared = said_of(model, "stacked_vectors")
        matrices = [(name, parameter) for name, parameter in named if parameter.ndim >= 2 and name not in spared]
        vectors = [(name, parameter) for name, parameter in named if parameter.ndim < 2 or name in spared]
        groups = [
            {"params": [parameter for _, parameter in part], "weight_decay": decay}
            for part, decay in ((matrices, self.weight_decay), (vectors, 0.0))
            if part
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.epsilon, fused=_fusible(named))
        return optimizer, [name for name, _ in matrices + vectors]


def _fusible(named: Named) -> bool:
    return all(parameter.device.type in ("cpu", "cuda", "mps") for _, parameter in named)
