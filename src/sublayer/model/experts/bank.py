"""The weights of many feed-forwards alike, and all of them computed at once.

Shapes: M rows sorted by expert, E experts, D d_model, F d_ff.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from sublayer.model.activation import ACTIVATIONS
from sublayer.model.dropout import dropout
from sublayer.model.experts.fused import fused_experts
from sublayer.model.experts.grouped import grouped_linear, linear_dtype
from sublayer.model.experts.packed import PackedBank
from sublayer.model.feed_forward.base import FeedForwardConfig
from sublayer.model.feed_forward.dense import DenseConfig
from sublayer.model.feed_forward.gated import GatedConfig
from sublayer.model.initialise import Constant, Normal, Rule
from sublayer.model.packed import Packable, gains
from sublayer.model.part import StackShape

KINDS = (DenseConfig, GatedConfig)
"""What an expert can be."""


class Bank(Packable):
    """Experts of one kind; of each weight, all experts' in one tensor [E, …].

    Args:
        config: of one expert, filled in.
        shape: of the stack.
        n_experts: how many there are.
    """

    stacked_vectors: ClassVar[tuple[str, ...]] = ("gate_bias", "up_bias", "down_bias")
    """One for each expert.  (See `Sublayer.stacked_vectors`.)"""

    def __init__(self, config: DenseConfig | GatedConfig, shape: StackShape, n_experts: int) -> None:
        super().__init__()
        assert config.d_ff is not None
        self.n_experts = n_experts
        self.activation = ACTIVATIONS[config.activation]
        self.activation_name = config.activation
        self.dropout = config.dropout
        gated = isinstance(config, GatedConfig)
        self.gate = self._matrices(config.d_ff, shape.d_model) if gated else None
        self.up = self._matrices(config.d_ff, shape.d_model)
        self.down = self._matrices(shape.d_model, config.d_ff)
        self.gate_bias = self._vectors(config.d_ff) if gated and config.bias else None
        self.up_bias = self._vectors(config.d_ff) if config.bias else None
        self.down_bias = self._vectors(shape.d_model) if config.bias else None
        self._gate_std, self._std = shape.std(shape.d_model), shape.branch_std(shape.d_model)
        self._output_std = shape.output_std(config.d_ff)

    def _matrices(self, n_out: int, n_in: int) -> nn.Parameter:
        return nn.Parameter(torch.empty(self.n_experts, n_out, n_in))

    def _vectors(self, n_out: int) -> nn.Parameter:
        return nn.Parameter(torch.empty(self.n_experts, n_out))

    def forward(self, x_MD: Tensor, count_E: Tensor) -> Tensor:
        """The experts' outputs [M, D].

        Args:
            x_MD: rows sorted by expert.
            count_E: how many rows are each one's (int64).
        """
        up_MF = _affine(x_MD, self.up, self.up_bias, count_E)
        gate_MF = None if self.gate is None else _affine(x_MD, self.gate, self.gate_bias, count_E)
        return _affine(self.hidden(up_MF, gate_MF, self.training), self.down, self.down_bias, count_E)

    def fuses(self, x_ND: Tensor) -> bool:
        """Whether `fused` takes these tokens: in training on a CPU in half precision, without biases and dropout.  (In
        float32 products take so long that it gains nothing; nor does it where hidden values, which it weights, are
        more than outputs.)"""
        pays = linear_dtype(x_ND, self.up).itemsize == 2 and self.up.shape[1] <= self.up.shape[2]
        dropping = self.training and self.dropout > 0
        learning = torch.is_grad_enabled() and all(matrix.requires_grad for matrix in self.parameters())
        return pays and learning and x_ND.device.type == "cpu" and self.up_bias is None and not dropping

    def fused(self, x_ND: Tensor, weight_M: Tensor, *order: Tensor) -> Tensor:
        """Σ over a token's assignments of weight · expert(x), [N, D].

        Args:
            x_ND: the tokens.
            weight_M: of each assignment, sorted by token.
            order: of the assignments; as in `fused_experts`.
        """
        x_ND = x_ND.to(linear_dtype(x_ND, self.up)).contiguous()
        y_ND: Tensor = fused_experts(x_ND, weight_M, self.gate, self.up, self.down, self.activation_name, *order)[0]
        return y_ND

    def hidden(self, up_MF: Tensor, gate_MF: Tensor | None, training: bool) -> Tensor:
        """What the last matrix reads, given what comes out of the first, or the first two."""
        hidden_MF = self.activation(up_MF) if gate_MF is None else self.activation(gate_MF) * up_MF
        return dropout(hidden_MF, self.dropout, training)

    @property
    def gated(self) -> bool:
        return self.gate is not None

    def packed(self) -> PackedBank | None:
        return PackedBank(self) if gains(self.up) else None

    def initial_values(self) -> Mapping[str, Rule]:
        rules: dict[str, Rule] = {"up": Normal(self._std), "down": Normal(self._output_std)}
        rules |= {f"{name}_bias": Constant(0.0) for name in ("gate", "up", "down")}
        return rules | {"gate": Normal(self._gate_std)}


def _affine(x_MI: Tensor, weight_EOI: Tensor, bias_EO: Tensor | None, count_E: Tensor) -> Tensor:
    y_MO = grouped_linear(x_MI, weight_EOI, count_E)
    if bias_EO is None:
        return y_MO
    return y_MO + bias_EO.to(y_MO.dtype).repeat_interleave(count_E, dim=0, output_size=len(x_MI))


def as_expert(config: FeedForwardConfig) -> DenseConfig | GatedConfig:
    """A feed-forward that can be an expert.

    Raises:
        ValueError: when it cannot.
    """
    if not isinstance(config, KINDS):
        names = " or ".join(kind.kind_name() for kind in KINDS)
        raise ValueError(f"an expert cannot be '{config.kind_name()}'; choose {names}")
    return config
