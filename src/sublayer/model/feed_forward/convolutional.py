"""A feed-forward with a convolution over tokens.

Shapes: B batch, T tokens, S tokens with those beside them, D d_model, F d_ff, W kernel_size, N tokens at edges.
"""

from collections.abc import Mapping
from dataclasses import dataclass
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
            many = document_BS is None and x_BTF.shape[1] > 1
            y_BTF = self._depthwise(x_BSF) if many else self._step(x_BSF, document_BS)
            return y_BTF if place_BT is None else y_BTF.gather(1, place_BT[..., None].expand_as(y_BTF))
        if layout.valid_BT is not None:
            x_BTF = x_BTF.masked_fill(~layout.valid_BT[..., None], 0.0)
        document_BT, sides = layout.document_BT, (self.before, self.behind)
        x_BSF = F.pad(x_BTF, (0, 0, *sides))
        if document_BT is not None and torch.compiler.is_compiling():  # how many edges there are would break the graph
            return self._step(x_BSF, F.pad(document_BT, sides))
        y_BTF = self._depthwise(x_BSF)
        if document_BT is None:
            return y_BTF
        edges = layout.once(f"edges {sides}", lambda: Edges.of(F.pad(document_BT, sides), self.before, self.behind))
        return y_BTF if edges is None else self._mended(y_BTF, x_BSF, edges)

    def _depthwise(self, x_BSF: Tensor) -> Tensor:
        """Σ_w c_w ⊙ x_{t+w} over all neighbours, [B, T, F]; zeros stand where there are none."""
        # As a picture one pixel high, whose features stand side by side in memory: PyTorch's one-dimensional
        # convolution lays them out anew, which takes several times as long as to convolve.
        weight, bias = self.convolution.weight[:, :, None], self.convolution.bias
        y_BFT = F.conv2d(x_BSF.transpose(1, 2)[:, :, None], weight, bias, groups=self.d_ff)[:, :, 0]
        return y_BFT.transpose(1, 2)

    def _mended(self, y_BTF: Tensor, x_BSF: Tensor, edges: "Edges") -> Tensor:
        """The convolution's output with the tokens computed anew that have neighbours of other documents."""
        near_NWF = x_BSF.flatten(0, 1)[edges.window_NW].masked_fill(~edges.same_NW[..., None], 0.0)
        y_NF = (near_NWF * self._kernel_WF(x_BSF)).sum(1)
        if self.convolution.bias is not None:
            y_NF = y_NF + self.convolution.bias
        return y_BTF.flatten(0, 1).index_copy(0, edges.token_N, y_NF.to(y_BTF.dtype)).view(y_BTF.shape)

    def _kernel_WF(self, like: Tensor) -> Tensor:
        return self.convolution.weight[:, 0].T.to(like.dtype)

    def _step(self, x_BSF: Tensor, document_BS: Tensor | None) -> Tensor:
        """The same as a sum over neighbours of the token's document, [B, T, F]: of few tokens, or compiled."""
        bias, n_tokens = self.convolution.bias, x_BSF.shape[1] - self.before - self.behind
        kernel_WF = self._kernel_WF(x_BSF)
        here = slice(self.before, self.before + n_tokens)
        y_BTF = x_BSF[:, here] * kernel_WF[self.before]
        for w in (*range(self.before), *range(self.before + 1, self.before + 1 + self.behind)):
            near_BTF = x_BSF[:, w : w + n_tokens]
            if document_BS is not None:
                same_BT = document_BS[:, w : w + n_tokens] == document_BS[:, here]
                near_BTF = near_BTF * same_BT[..., None]
            y_BTF = torch.addcmul(y_BTF, near_BTF, kernel_WF[w])
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


@dataclass(frozen=True)
class Edges:
    """The tokens of a batch with neighbours of another document.

    Attributes:
        token_N: which, among all rows' tokens.
        window_NW: their neighbours and they themselves, among all rows' tokens and padding at both sides.
        same_NW: which of these are of their document.
    """

    token_N: Tensor
    window_NW: Tensor
    same_NW: Tensor

    @classmethod
    def of(cls, document_BS: Tensor, before: int, behind: int) -> Self | None:
        """Of documents padded at both sides; None where numbers cannot be looked at, as in a rehearsal of memory."""
        windows_BTW = document_BS.unfold(1, before + 1 + behind, 1)
        same_BTW = windows_BTW == windows_BTW[..., before : before + 1]
        try:
            row_N, column_N = (~same_BTW.all(2)).nonzero(as_tuple=True)
        except NotImplementedError:
            return None
        first_N = row_N * document_BS.shape[1] + column_N
        window_NW = first_N[:, None] + torch.arange(before + 1 + behind, device=document_BS.device)
        return cls(row_N * windows_BTW.shape[1] + column_N, window_NW, same_BTW[row_N, column_N])
