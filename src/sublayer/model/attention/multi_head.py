"""Multi-head attention, with grouped and multi-query keys and values.

Shapes: B batch, T tokens, D d_model, H heads, G key/value heads, S keys, K head width.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from sublayer.config import Count, Flag, Probability
from sublayer.model.attention.base import AttentionConfig
from sublayer.model.attention.kernel import Attention, KernelName, attend
from sublayer.model.attention.memory import KeyValueMemory, SourceMemory
from sublayer.model.attention.pattern import Pattern, PatternChoice
from sublayer.model.attention.pattern.base import Everything
from sublayer.model.attention.pattern.full import FullConfig
from sublayer.model.attention.score import ScoreChange
from sublayer.model.initialise import Constant, Normal, Rule
from sublayer.model.layout import Layout, Span
from sublayer.model.part import Direction, Heads, Split, StackShape
from sublayer.model.report import EMPTY, Report
from sublayer.model.state import Memory
from sublayer.model.sublayer import Context, Sublayer


@AttentionConfig.registry.register
class MultiHeadConfig(AttentionConfig):
    """Several heads side by side; with fewer key/value heads grouped-query, with one multi-query attention."""

    paper: ClassVar[str] = "Vaswani et al. 2017, section 3.2.2; Shazeer 2019; Ainslie et al. 2023"
    crosses: ClassVar[bool] = True
    splits: ClassVar[Mapping[str, Split]] = {"query": "column", "key": "column", "value": "column", "output": "row"}

    kind: Literal["multi_head"] = "multi_head"
    n_heads: Count | None = None
    """Query heads; left out, d_model / d_head, with d_head 64 where d_model allows it."""
    n_kv_heads: Count | None = None
    """Key/value heads, each read by n_heads / n_kv_heads query heads; left out, n_heads."""
    d_head: Count | None = None
    """Width of a head; left out, d_model / n_heads."""
    pattern: PatternChoice = FullConfig()
    """Which keys a query may see."""
    bias: Flag = False
    """Add a learned bias in the four projections."""
    dropout: Probability = 0.0
    """Probability of dropping an attention weight in training."""
    kernel: KernelName = "auto"
    """How attention is computed; `auto` takes the fastest that carries the composition."""

    def filled(self, shape: StackShape) -> Self:
        n_heads, d_head = self.n_heads, self.d_head
        if n_heads is None:
            width = d_head or (64 if shape.d_model % 64 == 0 else shape.d_model)
            if shape.d_model % width:
                raise ValueError(f"d_head ({width}) does not divide d_model ({shape.d_model}); set n_heads as well")
            n_heads = shape.d_model // width
        if d_head is None:
            if shape.d_model % n_heads:
                raise ValueError(
                    f"n_heads ({n_heads}) does not divide d_model ({shape.d_model}); choose a divisor or set d_head too"
                )
            d_head = shape.d_model // n_heads
        n_kv_heads = self.n_kv_heads or n_heads
        if n_heads % n_kv_heads:
            raise ValueError(
                f"n_kv_heads ({n_kv_heads}) does not divide n_heads ({n_heads}), so query heads cannot share key/value "
                "heads evenly; choose a divisor"
            )
        return self.model_copy(update={"n_heads": n_heads, "n_kv_heads": n_kv_heads, "d_head": d_head})

    def filled_across(self, shape: StackShape) -> Self:
        if not isinstance(self.pattern, FullConfig):
            raise ValueError(
                f"a cross-attention sees the whole source, and the pattern '{self.pattern.kind_name()}' is one of "
                "distances within a sequence; set pattern: full"
            )
        return super().filled_across(shape)

    def heads(self) -> Heads:
        assert self.n_heads is not None and self.d_head is not None
        return Heads(self.n_heads, self.d_head)

    def across(self) -> "MultiHeadConfig":
        return self.model_copy(update={"pattern": FullConfig()})

    def seen(self, direction: Direction) -> Pattern:
        return self.pattern.pattern(direction)

    def source_flops(self, weights: Mapping[str, tuple[int, ...]]) -> float:
        return self.token_flops({name: weights[name] for name in ("key.weight", "value.weight")})

    def build(self, shape: StackShape, layer: int = 0, cross: bool = False) -> "MultiHead":
        return CrossMultiHead(self, shape) if cross else MultiHead(self, shape)


class MultiHead(Sublayer):
    """Concat(head_1 … head_H) W_O, with head_h = Attention(x W_Q^h, x W_K^g, x W_V^g) and g = h // (H / G)."""

    joins: ClassVar[tuple[str, ...]] = ("query", "key", "value")

    def __init__(self, config: MultiHeadConfig, shape: StackShape) -> None:
        super().__init__()
        assert config.n_heads is not None and config.n_kv_heads is not None and config.d_head is not None
        self.config = config
        self.n_heads, self.n_kv_heads, self.d_head = config.n_heads, config.n_kv_heads, config.d_head
        self.pattern = config.seen(shape.direction)
        self.scale = self.d_head**-0.5
        self.query = nn.Linear(shape.d_model, self.n_heads * self.d_head, bias=config.bias)
        self.key = nn.Linear(shape.d_model, self.n_kv_heads * self.d_head, bias=config.bias)
        self.value = nn.Linear(shape.d_model, self.n_kv_heads * self.d_head, bias=config.bias)
        self.output = nn.Linear(self.n_heads * self.d_head, shape.d_model, bias=config.bias)
        self._std = shape.std(shape.d_model)
        self._value_std = shape.branch_std(shape.d_model)
        self._output_std = shape.output_std(self.n_heads * self.d_head)

    def forward(self, x_BTD: Tensor, context: Context, memory: Memory | None = None) -> tuple[Tensor, Report]:
        q_BHTK, k_BGTK, v_BGTK = (self._heads(x_BTE) for x_BTE in self.project(x_BTD))
        q_BHTK, k_BGTK = context.position.rotate(q_BHTK, k_BGTK, context.layout)
        if isinstance(memory, KeyValueMemory):
            assert context.state is not None
            k_BGSK, v_BGSK, span = memory.extend(k_BGTK, v_BGTK, context.state)
        else:
            k_BGSK, v_BGSK, span = k_BGTK, v_BGTK, context.span
        change = context.position.prepare(q_BHTK, k_BGSK, span, self.scale)
        return self._attend(q_BHTK, k_BGSK, v_BGSK, span, change, context)

    def _attend(
        self,
        q_BHTK: Tensor,
        k_BGSK: Tensor,
        v_BGSK: Tensor,
        span: Span,
        change: ScoreChange | None,
        context: Context,
    ) -> tuple[Tensor, Report]:
        """The output of these queries over these keys and values, [B, T, D]."""
        call = Attention(
            pattern=self.pattern,
            span=span,
            scale=self.scale,
            score_change=change,
            dropout=self.config.dropout if self.training else 0.0,
            want_weights="attention" in context.want,
        )
        attended = attend(q_BHTK, k_BGSK, v_BGSK, call, self.config.kernel)
        y_BTD = self.output(attended.out_BHTK.transpose(1, 2).flatten(2))
        weights = attended.weights_BHTS
        return y_BTD, EMPTY if weights is None else Report(attention={"weights": weights})

    def _heads(self, x_BTE: Tensor) -> Tensor:
        """[B, T, heads·K] → [B, heads, T, K]."""
        return x_BTE.view(*x_BTE.shape[:-1], -1, self.d_head).transpose(1, 2)

    def new_memory(
        self, batch_size: int, max_length: int, max_rewind: int, device: torch.device, dtype: torch.dtype
    ) -> Memory:
        return KeyValueMemory(
            self.pattern.reach, batch_size, self.n_kv_heads, self.d_head, max_length, max_rewind, device, dtype
        )

    def initial_values(self) -> Mapping[str, Rule]:
        rules: dict[str, Rule] = {f"{name}.weight": Normal(self._std) for name in ("query", "key")}
        rules["value.weight"] = Normal(self._value_std)
        rules["output.weight"] = Normal(self._output_std)
        rules |= {f"{name}.bias": Constant(0.0) for name in ("query", "key", "value", "output")}
        return rules


class CrossMultiHead(MultiHead):
    """Keys and values are of the source that an encoder has read, and every query sees all of its document's."""

    joins: ClassVar[tuple[str, ...]] = ("key", "value")

    def __init__(self, config: MultiHeadConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        self.pattern = Everything()

    def forward(self, x_BTD: Tensor, context: Context, memory: Memory | None = None) -> tuple[Tensor, Report]:
        q_BHTK = self._heads(self.query(x_BTD))
        k_BGSK, v_BGSK, source = self._source(context, memory)
        # One span for all layers: the layout remembers it for this pass.
        span = context.layout.once("across", lambda: Span.across(context.layout, source))
        return self._attend(q_BHTK, k_BGSK, v_BGSK, span, None, context)

    def _source(self, context: Context, memory: Memory | None) -> tuple[Tensor, Tensor, Layout]:
        """Keys and values of the source, [B, G, S, K], and its layout."""
        if context.source is None:
            assert isinstance(memory, SourceMemory), "a cross-attention without a source"
            return memory.kept()
        layout = context.source.layout
        k_BGSK, v_BGSK = (self._heads(x_BSE) for x_BSE in self.project(context.source.hidden_BSD))
        if isinstance(memory, SourceMemory):
            memory.keep(k_BGSK, v_BGSK, layout)
        return k_BGSK, v_BGSK, layout

    def new_memory(
        self, batch_size: int, max_length: int, max_rewind: int, device: torch.device, dtype: torch.dtype
    ) -> SourceMemory:
        return SourceMemory(self.n_kv_heads, self.d_head, dtype)
