"""Gated linear units.

Shapes: B batch, T tokens, D d_model, F d_ff.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from torch import Tensor, nn

from sublayer.config import Count, Flag, Probability
from sublayer.model.activation import ACTIVATIONS, Activation
from sublayer.model.dropout import dropout
from sublayer.model.feed_forward.base import FeedForwardConfig
from sublayer.model.initialise import Constant, Normal, Rule
from sublayer.model.part import Split, StackShape
from sublayer.model.report import EMPTY, Report
from sublayer.model.state import Memory
from sublayer.model.sublayer import Context, Sublayer


@FeedForwardConfig.registry.register
class GatedConfig(FeedForwardConfig):
    """One matrix's activation multiplies another's output before the third: SwiGLU, GeGLU, ReGLU, GLU, bilinear."""

    paper: ClassVar[str] = "Shazeer 2020, equations 5 and 6; Dauphin et al. 2017"
    splits: ClassVar[Mapping[str, Split]] = {"gate": "column", "up": "column", "down": "row"}
    shorthands: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "swiglu": {"activation": "silu"},
        "geglu": {"activation": "gelu"},
        "reglu": {"activation": "relu"},
        "glu": {"activation": "sigmoid"},
        "bilinear": {"activation": "identity"},
    }

    kind: Literal["gated"] = "gated"
    activation: Activation = "silu"
    """The function on the gate: silu for SwiGLU, gelu for GeGLU, relu for ReGLU, sigmoid for GLU, identity for
    bilinear."""
    d_ff: Count | None = None
    """Width of gate and value; left out, 8/3·d_model (as many parameters as a dense one of 4·d_model), up to the next
    multiple of 32."""
    bias: Flag = False
    """Add a learned bias after each matrix."""
    dropout: Probability = 0.0
    """Probability of dropping a hidden value in training."""

    def filled(self, shape: StackShape) -> Self:
        return self.model_copy(update={"d_ff": self.d_ff or -(-8 * shape.d_model // (3 * 32)) * 32})

    def build(self, shape: StackShape) -> "Gated":
        return Gated(self, shape)


class Gated(Sublayer):
    """(act(x W_gate) ⊙ x W_up) W_down."""

    joins: ClassVar[tuple[str, ...]] = ("gate", "up")

    def __init__(self, config: GatedConfig, shape: StackShape) -> None:
        super().__init__()
        assert config.d_ff is not None
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = config.dropout
        self.gate = nn.Linear(shape.d_model, config.d_ff, bias=config.bias)
        self.up = nn.Linear(shape.d_model, config.d_ff, bias=config.bias)
        self.down = nn.Linear(config.d_ff, shape.d_model, bias=config.bias)
        self._gate_std, self._std = shape.std(shape.d_model), shape.branch_std(shape.d_model)
        self._output_std = shape.output_std(config.d_ff)

    def forward(self, x_BTD: Tensor, context: Context, memory: Memory | None = None) -> tuple[Tensor, Report]:
        gate_BTF, up_BTF = self.project(x_BTD)
        hidden_BTF = self.activation(gate_BTF) * up_BTF
        return self.down(dropout(hidden_BTF, self.dropout, self.training)), EMPTY

    def initial_values(self) -> Mapping[str, Rule]:
        rules: dict[str, Rule] = {"gate.weight": Normal(self._gate_std), "up.weight": Normal(self._std)}
        rules["down.weight"] = Normal(self._output_std)
        return rules | {f"{name}.bias": Constant(0.0) for name in ("gate", "up", "down")}
