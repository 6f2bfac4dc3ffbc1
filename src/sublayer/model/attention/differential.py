"""Differential attention: the difference of two maps of attention, in which what both attend to for nothing cancels.

Shapes: B batch, T tokens, S keys, D d_model, H heads, G key/value heads, K width of a map's queries and keys, E twice
that, the width of a head's values, or the features of all heads together.
"""

import math
from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from sublayer.config import Count, Probability
from sublayer.model.attention.base import AttentionConfig
from sublayer.model.attention.kernel import Attended, Attention, Example, KernelName, attend
from sublayer.model.attention.memory import KeyValueMemory
from sublayer.model.attention.pattern import Pattern, PatternChoice
from sublayer.model.attention.pattern.full import FullConfig
from sublayer.model.attention.projection import BiasChoice, Biases
from sublayer.model.attention.sizes import heads_of, kv_heads_of
from sublayer.model.initialise import Constant, Normal, Rule
from sublayer.model.layout import Span
from sublayer.model.norm import NormChoice, RMSNormConfig, normalised
from sublayer.model.part import Direction, Heads, Split, StackShape
from sublayer.model.position.base import PositionConfig
from sublayer.model.report import EMPTY, Report
from sublayer.model.state import Memory
from sublayer.model.sublayer import Context, Sublayer


@AttentionConfig.registry.register
class DifferentialConfig(AttentionConfig):
    """Two maps of attention by head, of which the second, times a learned λ, is taken from the first."""

    paper: ClassVar[str] = "Ye et al. 2024, section 2.1, equations 1–3"
    maps: ClassVar[int] = 2
    splits: ClassVar[Mapping[str, Split]] = {"query": "column", "key": "column", "value": "column", "output": "row"}

    kind: Literal["differential"] = "differential"
    n_heads: Count | None = None
    """Heads, each with two maps; left out, d_model / (2·d_head), with d_head 32 where d_model allows it."""
    n_kv_heads: Count | None = None
    """Key/value heads, each read by n_heads / n_kv_heads heads; left out, n_heads."""
    d_head: Count | None = None
    """Width of a map's queries and keys, half of that of a head's values; left out, d_model / (2·n_heads)."""
    lambda_init: Probability | None = None
    """What λ is about at the start; left out, 0.8 − 0.6·e^(−0.3·l) in layer l = 0, 1, …"""
    norm: NormChoice = RMSNormConfig(epsilon=1e-5)
    """The normalisation of each head's output."""
    pattern: PatternChoice = FullConfig()
    """Which keys a query may see."""
    bias: BiasChoice = Biases()
    """Add a learned bias in the projections, all or some: `{query: true, key: true, value: true}`."""
    dropout: Probability = 0.0
    """Probability of dropping a weight of either map in training."""
    kernel: KernelName = "auto"
    """How attention is computed; `auto` takes the fastest that carries the composition."""

    def filled(self, shape: StackShape) -> Self:
        n_heads, wide = heads_of(shape.d_model, self.n_heads, None if self.d_head is None else 2 * self.d_head)
        if wide % 2:
            raise ValueError(
                f"a head is {wide} wide and its two maps half of that each; choose n_heads so that d_model / n_heads "
                "is even, or set d_head"
            )
        n_kv_heads = kv_heads_of(n_heads, self.n_kv_heads)
        return self.model_copy(update={"n_heads": n_heads, "n_kv_heads": n_kv_heads, "d_head": wide // 2})

    def check(self, position: PositionConfig) -> None:
        if position.changes_values:
            raise ValueError(
                f"the position '{position.kind_name()}' adds to values as wide as keys, and those of 'differential' "
                "are twice as wide; choose another position, such as rope"
            )

    def widths(self) -> tuple[int, int, int]:
        """H, G and K (of a config filled in)."""
        assert self.n_heads is not None and self.n_kv_heads is not None and self.d_head is not None
        return self.n_heads, self.n_kv_heads, self.d_head

    def heads(self) -> Heads:
        n_heads, _, d_head = self.widths()
        return Heads(n_heads, d_head)

    def seen(self, direction: Direction) -> Pattern:
        return self.pattern.pattern(direction)

    def pair_flops(self) -> int:
        n_heads, _, d_head = self.widths()
        return 2 * self.maps * n_heads * (d_head + 2 * d_head)

    def example(self, direction: Direction, span: Span, like: Tensor, decoding: bool) -> Example:
        n_heads, n_kv_heads, d_head = self.widths()
        n_queries, n_keys = span.query_positions.shape[1], span.key_positions.shape[1]
        dropout = self.dropout if like.requires_grad else 0.0
        call = Attention(self.seen(direction), span, d_head**-0.5, dropout=dropout)
        q_BHTK = like.expand(1, n_heads, n_queries, d_head)
        return Example(self.kernel, call, q_BHTK, (q_BHTK, like.expand(1, n_kv_heads, n_keys, d_head)))

    def build(self, shape: StackShape, layer: int = 0, cross: bool = False) -> "Differential":
        return Differential(self, shape, layer)


class Differential(Sublayer):
    """Head h gives (1 − λ_init)·Norm((A_1 − λ A_2) V), with A_i the softmax of its queries and keys i.

    λ = e^(λ_q1·λ_k1) − e^(λ_q2·λ_k2) + λ_init, with vectors that a layer's heads share.  Queries and keys are laid out
    by head, and in a head the two maps' one behind the other, as in the authors' code.
    """

    joins: ClassVar[tuple[str, ...]] = ("query", "key", "value")

    def __init__(self, config: DifferentialConfig, shape: StackShape, layer: int) -> None:
        super().__init__()
        self.config = config
        self.n_heads, self.n_kv_heads, self.d_head = config.widths()
        self.pattern, self.scale = config.seen(shape.direction), self.d_head**-0.5
        given = config.lambda_init
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * layer) if given is None else given
        wide, narrow = 2 * self.n_heads * self.d_head, 2 * self.n_kv_heads * self.d_head
        self.query = nn.Linear(shape.d_model, wide, bias=config.bias.query)
        self.key = nn.Linear(shape.d_model, narrow, bias=config.bias.key)
        self.value = nn.Linear(shape.d_model, narrow, bias=config.bias.value)
        self.output = nn.Linear(wide, shape.d_model, bias=config.bias.output)
        self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2 = (
            nn.Parameter(torch.empty(self.d_head)) for _ in range(4)
        )
        self.norm = config.norm.build(2 * self.d_head)
        self._std, self._value_std = shape.std(shape.d_model), shape.branch_std(shape.d_model)
        self._output_std = shape.output_std(wide)

    def forward(self, x_BTD: Tensor, context: Context, memory: Memory | None = None) -> tuple[Tensor, Report]:
        q_BTE, k_BTE, v_BTE = self.project(x_BTD)
        q, k, v_BGSE, span = self._heads(q_BTE, 1), self._heads(k_BTE, 1), self._heads(v_BTE, 2), context.span
        # Each map is a map of all heads to the position, which has parameters for so many.
        maps = [context.position.rotate(q[:, i::2], k[:, i::2], context.layout) for i in range(2)]
        keys = [k_BGSK for _, k_BGSK in maps]
        if isinstance(memory, KeyValueMemory):
            assert context.state is not None
            joined, v_BGSE, span = memory.extend(torch.cat(keys, dim=1), v_BGSE, context.state)
            keys = [joined[:, : self.n_kv_heads], joined[:, self.n_kv_heads :]]
        first, second = (
            self._map(q_BHTK, k_BGSK, v_BGSE, span, context) for (q_BHTK, _), k_BGSK in zip(maps, keys, strict=True)
        )
        share = self._lambda()
        out_BHTE = first.out_BHTK - share.to(v_BTE.dtype) * second.out_BHTK
        out_BHTE = (1 - self.lambda_init) * normalised(self.norm, out_BHTE)
        y_BTD = self.output(out_BHTE.transpose(1, 2).flatten(2))
        if first.weights_BHTS is None or second.weights_BHTS is None:
            return y_BTD, EMPTY
        return y_BTD, Report(attention={"weights": first.weights_BHTS - share * second.weights_BHTS})

    def _heads(self, x_BTE: Tensor, n_widths: int) -> Tensor:
        """[B, T, heads·K·n_widths] → [B, heads, T, K·n_widths]."""
        return torch.unflatten(x_BTE, -1, (-1, n_widths * self.d_head)).transpose(1, 2)

    def _map(self, q_BHTK: Tensor, k_BGSK: Tensor, v_BGSE: Tensor, span: Span, context: Context) -> Attended:
        """What one of the two maps reads."""
        call = Attention(
            pattern=self.pattern,
            span=span,
            scale=self.scale,
            score_change=context.position.prepare(q_BHTK, k_BGSK, span, self.scale),
            dropout=self.config.dropout if self.training else 0.0,
            want_weights="attention" in context.want,
        )
        return attend(q_BHTK, k_BGSK, v_BGSE, call, self.config.kernel)

    def _lambda(self) -> Tensor:
        """λ, one number."""
        first, second = self.lambda_q1 * self.lambda_k1, self.lambda_q2 * self.lambda_k2
        return first.sum().exp() - second.sum().exp() + self.lambda_init

    def new_memory(
        self, batch_size: int, max_length: int, max_rewind: int, device: torch.device, dtype: torch.dtype
    ) -> KeyValueMemory:
        keys, values = (2 * self.n_kv_heads, self.d_head), (self.n_kv_heads, 2 * self.d_head)
        return KeyValueMemory(self.pattern.reach, batch_size, keys, values, max_length, max_rewind, device, dtype)

    def initial_values(self) -> Mapping[str, Rule]:
        rules: dict[str, Rule] = {f"{name}.weight": Normal(self._std) for name in ("query", "key")}
        rules |= {"value.weight": Normal(self._value_std), "output.weight": Normal(self._output_std)}
        rules |= {f"{name}.bias": Constant(0.0) for name in ("query", "key", "value", "output")}
        rules |= {f"lambda_{side}": Normal(0.1) for side in ("q1", "k1", "q2", "k2")}
        return rules
