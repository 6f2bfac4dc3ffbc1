"""Muon on the matrices inside the blocks, AdamW on everything else."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sublayer.config import Count, Flag, NonNegative, Positive
from sublayer.training.optimizer.adamw import AdamWConfig
from sublayer.training.optimizer.base import Named, Optimizer, OptimizerConfig, trained

PARTS = 8
"""Into how many parts of like cost the matrices are divided."""


@OptimizerConfig.registry.register
class MuonConfig(OptimizerConfig):
    """Momentum, orthogonalised, for the matrices inside the blocks; AdamW for embeddings, output matrix and vectors."""

    paper: ClassVar[str] = "Jordan et al. 2024; Liu et al. 2025"

    kind: Literal["muon"] = "muon"
    lr: Positive = 0.01
    """Learning rate of the matrices at the schedule's full height."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Decay of the running sum of gradients."""
    nesterov: Flag = True
    """Look one step of momentum ahead."""
    ns_steps: Count = 5
    """Newton–Schulz iterations, which orthogonalise."""
    weight_decay: NonNegative = 0.0
    """Share of a matrix that is taken away in each step, times lr."""
    adjust_lr: Literal["original", "match_rms_adamw"] = "original"
    """How the rate follows a matrix's shape: √max(1, rows/columns), or 0.2·√max(rows, columns), which makes an
    update as large as AdamW's."""
    adamw: AdamWConfig = AdamWConfig()
    """The optimizer of everything else."""

    def build(self, model: nn.Module) -> Optimizer:
        hidden = [(name, parameter) for name, parameter in trained(model) if is_hidden_matrix(name, parameter)]
        names = {name for name, _ in hidden}
        rest = [(name, parameter) for name, parameter in trained(model) if name not in names]
        members = [self.adamw.member(rest)] if rest else []
        matrices = Matrices(hidden)
        for part in _parts(matrices.named):
            muon = torch.optim.Muon(
                [matrix for _, matrix in part],
                lr=self.lr,
                momentum=self.momentum,
                nesterov=self.nesterov,
                ns_steps=self.ns_steps,
                weight_decay=self.weight_decay,
                adjust_lr_fn=self.adjust_lr,
            )
            members.append((muon, [name for name, _ in part]))
        return Optimizer(members, before_step=matrices.hand_over_gradients)


def _parts(matrices: Named) -> list[Named]:
    """The matrices in parts of like cost, whose steps can run side by side."""
    parts: list[Named] = [[] for _ in range(PARTS)]
    costs = [0] * PARTS
    for name, matrix in sorted(matrices, key=lambda item: item[1].numel(), reverse=True):
        least = costs.index(min(costs))
        parts[least].append((name, matrix))
        costs[least] += matrix.numel() * min(matrix.shape)
    return [part for part in parts if part]


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon takes a parameter: a matrix, or a batch of matrices, inside a block."""
    return name.startswith("blocks.") and parameter.ndim in (2, 3)


class Matrices:
    """Parameters as single matrices.

    A three-dimensional parameter, such as the experts' weights [E, F, D], is a batch of matrices: each one is
    orthogonalised by itself, through a view that shares its storage.
    """

    def __init__(self, parameters: Named) -> None:
        self.named: Named = []
        self._views: list[tuple[nn.Parameter, nn.Parameter, int]] = []
        for name, parameter in parameters:
            if parameter.ndim == 2:
                self.named.append((name, parameter))
                continue
            for number in range(parameter.shape[0]):
                view = nn.Parameter(parameter.detach()[number])
                self.named.append((f"{name}[{number}]", view))
                self._views.append((view, parameter, number))

    def hand_over_gradients(self) -> None:
        """Give each view its part of the whole parameter's gradient."""
        for view, parameter, number in self._views:
            view.grad = None if parameter.grad is None else parameter.grad[number]
