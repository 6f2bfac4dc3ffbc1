"""A feed-forward with a convolution over tokens.

Shapes: B batch, T tokens, S tokens with those beside them, D d_model, F d_ff, W kernel_size.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sublayer.config import Count, Flag, Probability
from sublayer.model.activation import ACTIVATIONS, Activation
from sublayer.model.dropout import dropout
from sublayer.model.feed_forward.base import FeedForwardConfig
from sublayer.model.feed_forward.dense import DenseConfig
from sublayer.model.feed_forward.gated import GatedConfig
from sublayer.model.feed_forward.tail import Tail
from sublayer.model.initialise import Constant, Normal, Rule
from sublayer.model.part import Split, StackShape
from sublayer.model.report import EMPTY, Report
from sublayer.model.state import Memory
from sublayer.model.sublayer import Context, Sublayer


@FeedForwardConfig.registry.register
class ConvolutionalConfig(FeedForwardConfig):
    """Each hidden unit is convolved over neighbouring tokens before its activation: over those before, in a decoder.

    Neighbours are counted in the order of a document's tokens, whatever positions they are given: padding is passed
    over, and nothing comes from another document.
    """

    paper: ClassVar[str] = (
        "Xie et al. 2021 (SegFormer), equation 3; So et al. 2021 (Primer); gated: Shi 2023 (TransNeXt)"
    )
    position_wise: ClassVar[bool] = False
    splits: ClassVar[Mapping[str, Split]] = {
        "gate": "column",
        "up": "column",
        "convolution": "column",
        "down": "row",
    }
    shorthands: ClassVar[Mapping[str, Mapping[str, Any]]] = {"conv_glu": {"gated": True}}

    kind: Literal["convolutional"] = "convolutional"
    kernel_size: Count = 3
    """Tokens that a hidden unit is made from: itself and those before it; in an encoder, as many on either side."""
    gated: Flag = False
    """Convolve and activate a gate that multiplies the other hidden units, instead of the hidden units themselves."""
    activation: Activation = "gelu"
    """The function behind the convolution."""
    d_ff: Count | None = None
    """Number of hidden units; left out, as many as in a dense feed-forward, or in a gated one."""
    bias: Flag = False
    """Add a learned bias after each matrix and the convolution."""
    dropout: Probability = 0.0
    """Probability of dropping a hidden value in training."""

    def filled(self, shape: StackShape) -> Self:
        if shape.direction == "bidirectional" and self.kernel_size % 2 == 0:
            raise ValueError(
                f"kernel_size ({self.kernel_size}) must be odd in {shape.words}, where a token stands in the middle"
            )
        like = GatedConfig(d_ff=self.d_ff) if self.gated else DenseConfig(d_ff=self.d_ff)
        return self.model_copy(update={"d_ff": like.filled(shape).d_ff})

    def build(self, shape: StackShape) -> "Convolutional":
        return GatedConvolutional(self, shape) if self.gated else Convolutional(self, shape)


class Convolutional(Sublayer):
    """act(c ∗ x W_1) W_2, with c ∗ a convolution of each column over tokens."""

    joins: ClassVar[tuple[str, ...]] = ("up",)

    def __init__(self, config: ConvolutionalConfig, shape: StackShape) -> None:
        super().__init__()
        assert config.d_ff is not None
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = config.dropout
        self.kernel_size, self.d_ff = config.kernel_size, config.d_ff
        self.behind = 0 if shape.direction == "causal" else config.kernel_size // 2
        self.before = config.kernel_size - 1 - self.behind
        self.up = nn.Linear(shape.d_model, config.d_ff, bias=config.bias)
        self.convolution = nn.Conv1d(config.d_ff, config.d_ff, config.kernel_size, groups=config.d_ff, bias=config.bias)
        self.down = nn.Linear(config.d_ff, shape.d_model, bias=config.bias)
        self._std = shape.branch_std(shape.d_model)
        self._output_std = shape.output_std(config.d_ff)

    def forward(self, x_BTD: Tensor, context: Context, memory: Memory | None = None) -> tuple[Tensor, Report]:
        (up_BTF,) = self.project(x_BTD)
        hidden_BTF = self.activation(self._convolved(up_BTF, context, memory))
        return self.down(dropout(hidden_BTF, self.dropout, self.training)), EMPTY

    def _convolved(self, x_BTF: Tensor, context: Context, memory: Memory | None) -> Tensor:
        """The convolution's output at each token."""
        layout = context.layout
        if isinstance(memory, Tail):
            x_BSF, document_BS, place_BT = memory.extend(x_BTF, layout)
            same = [] if document_BS is None else self._same(document_BS)
            y_BTF = self._summed(x_BSF, same) if same or x_BTF.shape[1] == 1 else self._depthwise(x_BSF)
            return y_BTF if place_BT is None else y_BTF.gather(1, place_BT[..., None].expand_as(y_BTF))
        if layout.valid_BT is not None:
            x_BTF = x_BTF.masked_fill(~layout.valid_BT[..., None], 0.0)
        document_BT, sides = layout.document_BT, (self.before, self.behind)
        if document_BT is None:
            return self._depthwise(F.pad(x_BTF, (0, 0, *sides)))
        same = layout.once(f"neighbours {sides}", lambda: self._same(F.pad(document_BT, sides)))
        return self._summed(F.pad(x_BTF, (0, 0, *sides)), same)

    def _same(self, document_BS: Tensor) -> Sequence[Tensor]:
        """Whether each neighbour of a token is of its document: [B, T, 1] for each place in the kernel."""
        n_tokens = document_BS.shape[1] - self.kernel_size + 1
        windows = [document_BS[:, w : w + n_tokens] for w in range(self.kernel_size)]
        return [(window == windows[self.before])[..., None] for window in windows]

    def _depthwise(self, x_BSF: Tensor) -> Tensor:
        """Σ_w c_w ⊙ x_{t+w} over all neighbours, [B, T, F]; zeros stand where there are none."""
        y_BFT: Tensor = self.convolution(x_BSF.transpose(1, 2))
        return y_BFT.transpose(1, 2)

    def _summed(self, x_BSF: Tensor, same: Sequence[Tensor]) -> Tensor:
        """The same over neighbours of the token's document, where documents are told.

        It is faster for a decoding step, too.
        """
        bias, n_tokens = self.convolution.bias, x_BSF.shape[1] - self.kernel_size + 1
        weight_WF = self.convolution.weight[:, 0].T.to(x_BSF.dtype)
        y_BTF = x_BSF[:, self.before : self.before + n_tokens] * weight_WF[self.before]
        for w in range(self.kernel_size):
            if w != self.before:
                window_BTF = x_BSF[:, w : w + n_tokens]
                y_BTF = torch.addcmul(y_BTF, window_BTF * same[w] if same else window_BTF, weight_WF[w])
        return y_BTF if bias is None else y_BTF + bias.to(y_BTF.dtype)

    def new_memory(
        self, batch_size: int, max_length: int, max_rewind: int, device: torch.device, dtype: torch.dtype
    ) -> Memory | None:
        if not self.before:
            return None
        return Tail(self.before, max_rewind, batch_size, self.d_ff, device, dtype)

    def initial_values(self) -> Mapping[str, Rule]:
        return {
            "up.weight": Normal(self._std),
            # Of few numbers, as wide as keeps the variance of what is convolved, whatever the matrices are.
            "convolution.weight": Normal(self.kernel_size**-0.5),
            "down.weight": Normal(self._output_std),
            **{f"{name}.bias": Constant(0.0) for name in ("up", "convolution", "down")},
        }


class GatedConvolutional(Convolutional):
    """(act(c ∗ x W_gate) ⊙ x W_up) W_down."""

    joins: ClassVar[tuple[str, ...]] = ("gate", "up")

    def __init__(self, config: ConvolutionalConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        self.gate = nn.Linear(shape.d_model, self.d_ff, bias=config.bias)
        self._gate_std = shape.std(shape.d_model)

    def forward(self, x_BTD: Tensor, context: Context, memory: Memory | None = None) -> tuple[Tensor, Report]:
        gate_BTF, up_BTF = self.project(x_BTD)
        hidden_BTF = self.activation(self._convolved(gate_BTF, context, memory)) * up_BTF
        return self.down(dropout(hidden_BTF, self.dropout, self.training)), EMPTY

    def initial_values(self) -> Mapping[str, Rule]:
        return {**super().initial_values(), "gate.weight": Normal(self._gate_std), "gate.bias": Constant(0.0)}
