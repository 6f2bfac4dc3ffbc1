"""Muon on the matrices inside the blocks, AdamW on everything else."""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from sublayer.config import Count, Flag, NonNegative, Positive
from sublayer.training.optimizer.adamw import AdamWConfig
from sublayer.training.optimizer.base import Named, Optimizer, OptimizerConfig, said_of, trained
from sublayer.training.optimizer.batched_muon import BatchedMuon

TOGETHER = 1 << 17
"""Numbers in the matrices of one shape that are orthogonalised together, at most (or one matrix, when it is larger):
enough for products that are worth starting, few enough that threads find parts to divide among them."""


@OptimizerConfig.registry.register
class MuonConfig(OptimizerConfig):
    """Momentum, orthogonalised, for the matrices inside the blocks; AdamW for embeddings, output matrix, routers and
    vectors."""

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
        others = said_of(model, "no_hidden_matrices") | said_of(model, "stacked_vectors")
        hidden = [(n, p) for n, p in trained(model) if is_hidden_matrix(n, p) and n not in others]
        names = {name for name, _ in hidden}
        rest = [(name, parameter) for name, parameter in trained(model) if name not in names]
        members = [self.adamw.member(model, rest)] if rest else []
        matrices = Matrices(hidden)
        for part in _parts(matrices.named):
            muon = BatchedMuon(
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
    """Matrices of like shape together, in parts whose steps can run side by side; the costliest first."""
    alike: dict[tuple[int, ...], Named] = {}
    for name, matrix in matrices:
        alike.setdefault(tuple(matrix.shape), []).append((name, matrix))
    parts: list[Named] = []
    for shape, named in alike.items():
        count = max(1, TOGETHER // math.prod(shape))
        parts += [named[first : first + count] for first in range(0, len(named), count)]
    return sorted(parts, key=lambda part: sum(m.numel() * min(m.shape) for _, m in part), reverse=True)


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Whether a parameter has the shape and the place of what Muon takes: a matrix, or a batch of matrices, inside a
    block; of an encoder beside as well.

    What is only a batch of rows, such as the kernels of a depthwise convolution, is none.
    """
    inside = name.startswith(("blocks.", "encoder.blocks."))
    return inside and parameter.ndim in (2, 3) and min(parameter.shape[-2:]) > 1


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
