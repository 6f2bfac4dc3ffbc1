"""Multi-head attention, with grouped and multi-query keys and values.

Shapes: B batch, T tokens, D d_model, H heads, G key/value heads, S keys, K head width.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from sublayer.config import Count, Positive, Probability
from sublayer.model.attention.base import AttentionConfig
from sublayer.model.attention.kernel import Attended, Attention, Example, KernelName, attend, refusal
from sublayer.model.attention.memory import KeyValueMemory, SourceMemory
from sublayer.model.attention.pattern import Pattern, PatternChoice
from sublayer.model.attention.pattern.base import Everything
from sublayer.model.attention.pattern.full import FullConfig
from sublayer.model.attention.projection import BiasChoice, Biases
from sublayer.model.attention.qk_norm import NoQkNormConfig, QkNormChoice
from sublayer.model.attention.score import ScoreChange
from sublayer.model.attention.sizes import heads_of, kv_heads_of
from sublayer.model.initialise import Constant, Normal, Rule
from sublayer.model.layout import Layout, Span
from sublayer.model.norm import normalised
from sublayer.model.part import Direction, Heads, Split, StackShape
from sublayer.model.position.base import PositionConfig
from sublayer.model.report import EMPTY, Report
from sublayer.model.state import Memory
from sublayer.model.sublayer import Context, Sublayer


@AttentionConfig.registry.register
class MultiHeadConfig(AttentionConfig):
    """Several heads side by side; with fewer key/value heads grouped-query, with one multi-query attention."""

    paper: ClassVar[str] = (
        "Vaswani et al. 2017, section 3.2.2; Shazeer 2019; Ainslie et al. 2023; soft cap: Gemma Team 2024, section 2; "
        "sinks: OpenAI 2025, section 2.2; Miller 2023; gate: Qiu et al. 2025, equation 5"
    )
    crosses: ClassVar[bool] = True
    splits: ClassVar[Mapping[str, Split]] = {
        "query": "column",
        "key": "column",
        "value": "column",
        "gate": "column",
        "output": "row",
    }

    kind: Literal["multi_head"] = "multi_head"
    n_heads: Count | None = None
    """Query heads; left out, d_model / d_head, with d_head 64 where d_model allows it."""
    n_kv_heads: Count | None = None
    """Key/value heads, each read by n_heads / n_kv_heads query heads; left out, n_heads."""
    d_head: Count | None = None
    """Width of a head; left out, d_model / n_heads."""
    pattern: PatternChoice = FullConfig()
    """Which keys a query may see."""
    qk_norm: QkNormChoice = NoQkNormConfig()
    """How queries and keys are normalised before they are rotated; `true` for each head by itself."""
    scale: Positive | None = None
    """Factor of the query-key products; left out, 1/√d_head.  1.0 for none at all, as in T5."""
    soft_cap: Positive | None = None
    """c of c·tanh(score/c), taken of the scaled products, before a position changes them; left out, no cap."""
    sink: Literal["none", "learned", "off_by_one"] = "none"
    """A logit by head that joins the softmax and has no value, so that a head may attend to nothing: learned, or 0 (the
    softmax's denominator off by one).  First tokens kept in view are the pattern's: `window: {sinks: 4}`."""
    gate: Literal["none", "head", "element"] = "none"
    """Multiply the heads' output with σ(x W), a number for each head or for each of its features."""
    bias: BiasChoice = Biases()
    """Add a learned bias in the projections, all or some: `{query: true, key: true, value: true}`."""
    dropout: Probability = 0.0
    """Probability of dropping an attention weight in training."""
    kernel: KernelName = "auto"
    """How attention is computed; `auto` takes the fastest that carries the composition."""

    def filled(self, shape: StackShape) -> Self:
        n_heads, d_head = heads_of(shape.d_model, self.n_heads, self.d_head)
        n_kv_heads = kv_heads_of(n_heads, self.n_kv_heads)
        return self.model_copy(update={"n_heads": n_heads, "n_kv_heads": n_kv_heads, "d_head": d_head})

    def filled_across(self, shape: StackShape) -> Self:
        if not isinstance(self.pattern, FullConfig):
            raise ValueError(
                f"a cross-attention sees the whole source, and the pattern '{self.pattern.kind_name()}' is one of "
                "distances within a sequence; set pattern: full"
            )
        return super().filled_across(shape)

    def check(self, position: PositionConfig) -> None:
        capped = refusal(self.kernel, soft_cap=self.soft_cap)
        refused = capped or refusal(self.kernel, changes_values=position.changes_values)
        if refused:
            cause = "soft_cap" if capped else f"the position '{position.kind_name()}'"
            raise ValueError(f"the kernel '{self.kernel}' cannot carry {cause}: {refused}; set kernel: auto")

    def heads(self) -> Heads:
        assert self.n_heads is not None and self.d_head is not None
        return Heads(self.n_heads, self.d_head)

    def across(self) -> "MultiHeadConfig":
        return self.model_copy(update={"pattern": FullConfig()})

    def seen(self, direction: Direction) -> Pattern:
        return self.pattern.pattern(direction)

    def source_flops(self, weights: Mapping[str, tuple[int, ...]]) -> float:
        return self.token_flops({name: weights[name] for name in ("key.weight", "value.weight")})

    def score_scale(self) -> float:
        """The factor of the query-key products (of a config filled in)."""
        assert self.d_head is not None
        return self.d_head**-0.5 if self.scale is None else self.scale

    def example(self, direction: Direction, span: Span, like: Tensor, decoding: bool) -> Example:
        assert self.n_heads is not None and self.n_kv_heads is not None and self.d_head is not None
        n_queries, n_keys = span.query_positions.shape[1], span.key_positions.shape[1]
        call = Attention(
            pattern=self.seen(direction),
            span=span,
            scale=self.score_scale(),
            soft_cap=self.soft_cap,
            sink_H=None if self.sink == "none" else like.expand(self.n_heads),
            dropout=self.dropout if like.requires_grad else 0.0,
        )
        q_BHTK = like.expand(1, self.n_heads, n_queries, self.d_head)
        k_BGSK = like.expand(1, self.n_kv_heads, n_keys, self.d_head)
        return Example(self.kernel, call, q_BHTK, (q_BHTK, k_BGSK))

    def build(self, shape: StackShape, layer: int = 0, cross: bool = False) -> "MultiHead":
        return CrossMultiHead(self, shape) if cross else MultiHead(self, shape)


class MultiHead(Sublayer):
    """Concat(head_1 … head_H) W_O, with head_h = Attention(x W_Q^h, x W_K^g, x W_V^g) and g = h // (H / G)."""

    joins: ClassVar[tuple[str, ...]] = ("query", "key", "value", "gate")

    def __init__(self, config: MultiHeadConfig, shape: StackShape) -> None:
        super().__init__()
        assert config.n_heads is not None and config.n_kv_heads is not None and config.d_head is not None
        self.config = config
        self.n_heads, self.n_kv_heads, self.d_head = config.n_heads, config.n_kv_heads, config.d_head
        self.pattern = config.seen(shape.direction)
        self.scale = config.score_scale()
        wide, narrow, bias = self.n_heads * self.d_head, self.n_kv_heads * self.d_head, config.bias
        self.query = nn.Linear(shape.d_model, wide, bias=bias.query)
        self.key = nn.Linear(shape.d_model, narrow, bias=bias.key)
        self.value = nn.Linear(shape.d_model, narrow, bias=bias.value)
        self.output = nn.Linear(wide, shape.d_model, bias=bias.output)
        gates = {"none": 0, "head": self.n_heads, "element": wide}[config.gate]
        self.gate = nn.Linear(shape.d_model, gates, bias=False) if gates else None
        self.query_norm = config.qk_norm.build(self.n_heads, self.d_head)
        self.key_norm = config.qk_norm.build(self.n_kv_heads, self.d_head)
        self.sink = nn.Parameter(torch.empty(self.n_heads)) if config.sink == "learned" else None
        self._std = shape.std(shape.d_model)
        self._value_std = shape.branch_std(shape.d_model)
        self._output_std = shape.output_std(wide)

    def forward(self, x_BTD: Tensor, context: Context, memory: Memory | None = None) -> tuple[Tensor, Report]:
        q_BTE, k_BTE, v_BTE, *gate = self.project(x_BTD)
        q_BHTK, k_BGTK = self._normed(q_BTE, self.query_norm), self._normed(k_BTE, self.key_norm)
        v_BGTK = self._heads(v_BTE)
        q_BHTK, k_BGTK = context.position.rotate(q_BHTK, k_BGTK, context.layout)
        if isinstance(memory, KeyValueMemory):
            assert context.state is not None
            k_BGSK, v_BGSK, span = memory.extend(k_BGTK, v_BGTK, context.state)
        else:
            k_BGSK, v_BGSK, span = k_BGTK, v_BGTK, context.span
        change = context.position.prepare(q_BHTK, k_BGSK, span, self.scale)
        call = self._call(q_BHTK, span, change, context)
        return self._attended(attend(q_BHTK, k_BGSK, v_BGSK, call, self.config.kernel), gate)

    def _heads(self, x_BTE: Tensor) -> Tensor:
        """[B, T, heads·K] → [B, heads, T, K]."""
        return torch.unflatten(x_BTE, -1, (-1, self.d_head)).transpose(1, 2)

    def _normed(self, x_BTE: Tensor, norm: nn.Module | None) -> Tensor:
        """Queries or keys by head, [B, heads, T, K], normalised."""
        if norm is None:
            return self._heads(x_BTE)
        shape = x_BTE.shape
        x = torch.unflatten(x_BTE, -1, (-1, self.d_head)) if self.config.qk_norm.divided else x_BTE
        return self._heads(normalised(norm, x).view(shape))

    def _call(self, q_BHTK: Tensor, span: Span, change: ScoreChange | None, context: Context) -> Attention:
        sink_H = self.sink if self.config.sink != "off_by_one" else q_BHTK.new_zeros(self.n_heads)
        return Attention(
            pattern=self.pattern,
            span=span,
            scale=self.scale,
            score_change=change,
            soft_cap=self.config.soft_cap,
            sink_H=sink_H,
            dropout=self.config.dropout if self.training else 0.0,
            want_weights="attention" in context.want,
        )

    def _attended(self, attended: Attended, gate: Sequence[Tensor]) -> tuple[Tensor, Report]:
        """The output [B, T, D] of what the heads have read, gated by what there is of `gate`."""
        out_BTHK = attended.out_BHTK.transpose(1, 2)
        for gate_BTE in gate:
            out_BTHK = out_BTHK * torch.unflatten(gate_BTE, -1, (out_BTHK.shape[2], -1)).sigmoid()
        weights = attended.weights_BHTS
        return self.output(out_BTHK.flatten(2)), EMPTY if weights is None else Report(attention={"weights": weights})

    def new_memory(
        self, batch_size: int, max_length: int, max_rewind: int, device: torch.device, dtype: torch.dtype
    ) -> Memory:
        heads = (self.n_kv_heads, self.d_head)
        return KeyValueMemory(self.pattern.reach, batch_size, heads, heads, max_length, max_rewind, device, dtype)

    def initial_values(self) -> Mapping[str, Rule]:
        rules: dict[str, Rule] = {f"{name}.weight": Normal(self._std) for name in ("query", "key", "gate")}
        rules["value.weight"] = Normal(self._value_std)
        rules["output.weight"] = Normal(self._output_std)
        rules |= {f"{name}.bias": Constant(0.0) for name in ("query", "key", "value", "output")}
        rules["sink"] = Constant(0.0)
        return rules


class CrossMultiHead(MultiHead):
    """Keys and values are of the source that an encoder has read, and every query sees all of its document's."""

    joins: ClassVar[tuple[str, ...]] = ("key", "value")

    def __init__(self, config: MultiHeadConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        self.pattern = Everything()

    def forward(self, x_BTD: Tensor, context: Context, memory: Memory | None = None) -> tuple[Tensor, Report]:
        q_BHTK = self._normed(self.query(x_BTD), self.query_norm)
        k_BGSK, v_BGSK, source = self._source(context, memory)
        # One span for all layers: the layout remembers it for this pass.
        span = context.layout.once("across", lambda: Span.across(context.layout, source))
        call = self._call(q_BHTK, span, None, context)
        gate = [] if self.gate is None else [self.gate(x_BTD)]
        return self._attended(attend(q_BHTK, k_BGSK, v_BGSK, call, self.config.kernel), gate)

    def _source(self, context: Context, memory: Memory | None) -> tuple[Tensor, Tensor, Layout]:
        """Keys and values of the source, [B, G, S, K], and its layout."""
        if context.source is None:
            assert isinstance(memory, SourceMemory), "a cross-attention without a source"
            return memory.kept()
        layout = context.source.layout
        k_BSE, v_BSE = self.project(context.source.hidden_BSD)
        k_BGSK, v_BGSK = self._normed(k_BSE, self.key_norm), self._heads(v_BSE)
        if isinstance(memory, SourceMemory):
            memory.keep(k_BGSK, v_BGSK, layout)
        return k_BGSK, v_BGSK, layout

    def new_memory(
        self, batch_size: int, max_length: int, max_rewind: int, device: torch.device, dtype: torch.dtype
    ) -> SourceMemory:
        return SourceMemory(self.n_kv_heads, self.d_head, dtype)
