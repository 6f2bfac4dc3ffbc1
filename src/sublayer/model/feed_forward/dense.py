"""The position-wise feed-forward network.

Shapes: B batch, T tokens, N = B·T, D d_model, F d_ff.
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
class DenseConfig(FeedForwardConfig):
    """Two matrices with an activation between them, for each token by itself."""

    paper: ClassVar[str] = "Vaswani et al. 2017, equation 2; relu²: So et al. 2021"
    splits: ClassVar[Mapping[str, Split]] = {"up": "column", "down": "row"}
    shorthands: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {"activation": name} for name in ("relu", "relu2", "gelu", "gelu_tanh", "gelu_quick", "silu", "mish")
    }

    kind: Literal["dense"] = "dense"
    activation: Activation = "gelu"
    """The function between the two matrices."""
    d_ff: Count | None = None
    """Width between the two matrices; left out, 4·d_model."""
    bias: Flag = False
    """Add a learned bias after each matrix."""
    dropout: Probability = 0.0
    """Probability of dropping a hidden value in training."""

    def filled(self, shape: StackShape) -> Self:
        return self.model_copy(update={"d_ff": self.d_ff or 4 * shape.d_model})

    def build(self, shape: StackShape) -> "Dense":
        return Dense(self, shape)


class Dense(Sublayer):
    """act(x W_1 + b_1) W_2 + b_2."""

    def __init__(self, config: DenseConfig, shape: StackShape) -> None:
        super().__init__()
        assert config.d_ff is not None
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = config.dropout
        self.up = nn.Linear(shape.d_model, config.d_ff, bias=config.bias)
        self.down = nn.Linear(config.d_ff, shape.d_model, bias=config.bias)
        self._std = shape.branch_std(shape.d_model)
        self._output_std = shape.output_std(config.d_ff)

    def forward(self, x_BTD: Tensor, context: Context, memory: Memory | None = None) -> tuple[Tensor, Report]:
        # As rows [N, D]: when compiled, an activation's derivative is then found from the very tensor that the second
        # matrix keeps, where a view of it would count as another, and ReLU would keep a mask beside it.
        hidden_NF = dropout(self.activation(self.up(x_BTD.flatten(0, 1))), self.dropout, self.training)
        return self.down(hidden_NF).view(x_BTD.shape), EMPTY

    def initial_values(self) -> Mapping[str, Rule]:
        return {
            "up.weight": Normal(self._std),
            "down.weight": Normal(self._output_std),
            "up.bias": Constant(0.0),
            "down.bias": Constant(0.0),
        }
