"""Hyper-connections: several residual streams, mixed anew around each sublayer.

Shapes: B batch, T tokens, N streams, M = N + 1 mixtures of them, D d_model.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sublayer.config import Count, Flag
from sublayer.model.initialise import Constant, Each, Rule
from sublayer.model.norm import NormConfig
from sublayer.model.part import StackShape
from sublayer.model.precision import without_autocast
from sublayer.model.report import Report
from sublayer.model.residual.base import Box, Residual, ResidualConfig, as_input


@ResidualConfig.registry.register
class HyperConnectionsConfig(ResidualConfig):
    """Several residual streams: a sublayer reads a mixture of them and writes into each, while they mix too.

    The embeddings enter every stream, and the streams are summed behind the last block.  At the start, all streams are
    what the one of `pre_norm` is.
    """

    paper: ClassVar[str] = "Zhu et al. 2024, equations 1 to 14 and algorithms 2 and 3"
    final_norm: ClassVar[bool] = True
    whole_stack: ClassVar[bool] = True

    kind: Literal["hyper_connections"] = "hyper_connections"
    streams: Count = 4
    """How many streams: the expansion rate."""
    dynamic: Flag = True
    """Let the mixing depend on the token as well, and not on learned numbers alone."""

    def token_flops(self, weights: Mapping[str, tuple[int, ...]]) -> float:
        # Of each sublayer: the mixtures of all streams, which are no products of matrices of one stream alone, and
        # the dynamic numbers of each.
        n = self.streams
        width = max(shape[-1] for name, shape in weights.items() if name.startswith("norms."))
        n_sublayers = sum(name.endswith(".write_N") for name in weights)
        return n_sublayers * 2 * n * width * ((n + 1) * (n > 1) + self.dynamic * (n + 2))

    def build(self, shape: StackShape, norm: NormConfig, n_sublayers: int, layer: int) -> "HyperConnections":
        return HyperConnections(self, shape, norm, n_sublayers, layer)


class HyperConnections(Residual):
    """H ← A_rᵀ H + β ⊗ Dropout(Sublayer(Norm(A_mᵀ H))) for the streams H [N, D] of a token."""

    def __init__(
        self, config: HyperConnectionsConfig, shape: StackShape, norm: NormConfig, n_sublayers: int, layer: int
    ) -> None:
        super().__init__(shape, layer)
        self.n_streams = config.streams
        self.first, self.last = layer == 0, layer == shape.n_layers - 1
        self.norms = nn.ModuleList(norm.build(shape.d_model) for _ in range(n_sublayers))
        self.connections = nn.ModuleList(
            Connection(config, shape, norm, number=layer * n_sublayers + i) for i in range(n_sublayers)
        )

    def enter(self, x_BTD: Tensor) -> Tensor:
        """The embeddings [B, T, D] in the first block, the streams [B, T, N, D] behind it → the streams."""
        return x_BTD[:, :, None].expand(-1, -1, self.n_streams, -1) if self.first else x_BTD

    def around(self, i: int, box: Box, stream: Tensor) -> tuple[Tensor, Report]:
        mixed_BTMD, write_BTN = self.connections[i](stream)
        y_BTD, report = box(as_input(self.norms[i](mixed_BTMD[:, :, 0])))
        written_BTND = write_BTN[..., None] * self.branch(y_BTD)[:, :, None]
        return mixed_BTMD[:, :, 1:] + written_BTND, report

    def leave(self, stream: Tensor) -> Tensor:
        return stream.sum(2) if self.last else stream


class Connection(nn.Module):
    """What a sublayer reads of the streams, how they mix, and how much it writes into each (A_m, A_r and B)."""

    def __init__(self, config: HyperConnectionsConfig, shape: StackShape, norm: NormConfig, number: int) -> None:
        super().__init__()
        n = config.streams
        self._reads = number % n  # at first, sublayers read the streams in turn
        # Vectors, the mixing one too, for optimizers: weight decay or orthogonalising would undo the streams.
        self.read_N = nn.Parameter(torch.empty(n))
        self.mix = nn.Parameter(torch.empty(n * n))
        self.write_N = nn.Parameter(torch.empty(n))
        self.norm = norm.build(shape.d_model) if config.dynamic else None
        self.dynamic = nn.Linear(shape.d_model, n + 2, bias=False) if config.dynamic else None
        self.scales = nn.Parameter(torch.empty(2)) if config.dynamic else None

    def forward(self, streams_BTND: Tensor) -> tuple[Tensor, Tensor]:
        """What is read and the streams mixed, [B, T, M, D], and how much to write into each stream, [B, T, N]."""
        n = self.read_N.shape[0]
        alpha_NM = torch.cat([self.read_N[:, None], self.mix.view(n, n)], dim=1)
        beta_N: Tensor = self.write_N
        if self.dynamic is not None and self.norm is not None and self.scales is not None:
            change = torch.tanh(self.dynamic(as_input(self.norm(streams_BTND)))).to(streams_BTND.dtype)
            alpha_NM = alpha_NM + self.scales[0] * change[..., :-1]
            beta_N = beta_N + self.scales[1] * change[..., -1]
        with without_autocast(streams_BTND):
            of_token = "bt" if alpha_NM.dim() > 2 else ""
            mixed_BTMD = torch.einsum(f"{of_token}nm,btnd->btmd", alpha_NM, streams_BTND)
        return mixed_BTMD, beta_N.expand(streams_BTND.shape[:-1])

    def initial_values(self) -> Mapping[str, Rule]:
        n = self.read_N.shape[0]
        return {
            "read_N": Each(tuple(float(i == self._reads) for i in range(n))),
            "mix": Each(tuple(float(i == j) for i in range(n) for j in range(n))),
            "write_N": Constant(1.0),
            "dynamic.weight": Constant(0.0),
            "scales": Constant(0.01),
        }
