"""Multi-head latent attention: keys and values of all heads from one compressed vector a token, all that is kept.

Shapes: B batch, T tokens, S tokens in view, D d_model, H heads, K width of a head's own queries and keys, R rotated
width, V width of a head's values, L latent width, E features of all heads together.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from sublayer.config import Count, Positive, Probability
from sublayer.model.attention.base import AttentionConfig
from sublayer.model.attention.kernel import Attended, Attention, Example, KernelName, attend
from sublayer.model.attention.memory import LatentMemory
from sublayer.model.attention.pattern import Pattern, PatternChoice
from sublayer.model.attention.pattern.full import FullConfig
from sublayer.model.attention.sizes import heads_of
from sublayer.model.initialise import Normal, Rule
from sublayer.model.layout import Span
from sublayer.model.norm import NormChoice, RMSNormConfig, normalised
from sublayer.model.part import Direction, Heads, Split, StackShape
from sublayer.model.position.base import PositionConfig
from sublayer.model.report import EMPTY, Report
from sublayer.model.state import Memory
from sublayer.model.sublayer import Context, Sublayer


@AttentionConfig.registry.register
class LatentConfig(AttentionConfig):
    """Multi-head latent attention (MLA): decoding keeps one compressed vector a token for all heads."""

    paper: ClassVar[str] = "DeepSeek-AI 2024 (DeepSeek-V2), section 2.1, equations 9–19"
    splits: ClassVar[Mapping[str, Split]] = {
        "query": "column",
        "query_up": "column",
        "key_up": "column",
        "value_up": "column",
        "output": "row",
    }

    kind: Literal["latent"] = "latent"
    n_heads: Count | None = None
    """Heads; left out, d_model / d_head, with d_head 64 where d_model allows it."""
    d_head: Count | None = None
    """Width of a head's queries and keys without their rotated part; left out, d_model / n_heads."""
    d_rope: Count | None = None
    """Width of the rotated part: of each head's queries, and of one key for all heads; left out, half of d_head."""
    d_value: Count | None = None
    """Width of a head's values; left out, d_head."""
    d_latent: Count | None = None
    """Width of the vector that keys and values are made from; left out, four times d_head."""
    d_query_latent: Count | None = None
    """Width of the vector that queries are made from; left out, they are made from the token itself."""
    norm: NormChoice = RMSNormConfig()
    """The normalisation of these vectors."""
    pattern: PatternChoice = FullConfig()
    """Which keys a query may see."""
    scale: Positive | None = None
    """Factor of the query-key products; left out, 1/√(d_head + d_rope)."""
    dropout: Probability = 0.0
    """Probability of dropping an attention weight in training."""
    kernel: KernelName = "auto"
    """How attention is computed; `auto` takes the fastest that carries the composition."""

    def filled(self, shape: StackShape) -> Self:
        n_heads, d_head = heads_of(shape.d_model, self.n_heads, self.d_head)
        sizes = {
            "n_heads": n_heads,
            "d_head": d_head,
            "d_rope": self.d_rope or 2 * max(1, d_head // 4),
            "d_value": self.d_value or d_head,
            "d_latent": self.d_latent or 4 * d_head,
        }
        return self.model_copy(update=sizes)

    def check(self, position: PositionConfig) -> None:
        if position.changes_values:
            raise ValueError(
                f"the position '{position.kind_name()}' adds to values, and those of 'latent' are not laid out by head "
                "while decoding; choose another position, such as rope"
            )

    def widths(self) -> tuple[int, int, int, int, int]:
        """H, K, R, V and L (of a config filled in)."""
        sizes = (self.n_heads, self.d_head, self.d_rope, self.d_value, self.d_latent)
        n_heads, d_head, d_rope, d_value, d_latent = (size or 0 for size in sizes)
        return n_heads, d_head, d_rope, d_value, d_latent

    def heads(self) -> Heads:
        n_heads, _, d_rope, _, _ = self.widths()
        return Heads(n_heads, d_rope)

    def seen(self, direction: Direction) -> Pattern:
        return self.pattern.pattern(direction)

    def pair_flops(self) -> int:
        n_heads, d_head, d_rope, d_value, _ = self.widths()
        return 2 * n_heads * (d_head + d_rope + d_value)

    def decoding_pair_flops(self) -> int:
        n_heads, _, d_rope, _, d_latent = self.widths()
        return 4 * n_heads * (d_latent + d_rope)

    def score_scale(self) -> float:
        """The factor of the query-key products (of a config filled in)."""
        _, d_head, d_rope, _, _ = self.widths()
        return (d_head + d_rope) ** -0.5 if self.scale is None else self.scale

    def example(self, direction: Direction, span: Span, like: Tensor, decoding: bool) -> Example:
        n_heads, d_head, d_rope, _, d_latent = self.widths()
        n_queries, n_keys = span.query_positions.shape[1], span.key_positions.shape[1]
        dropout = self.dropout if like.requires_grad else 0.0
        call = Attention(self.seen(direction), span, self.score_scale(), dropout=dropout)
        q_BHTK = like.expand(1, n_heads, n_queries, d_rope + (d_latent if decoding else d_head))
        rotated = like.expand(1, n_heads, n_queries, d_rope), like.expand(1, 1, n_keys, d_rope)
        return Example(self.kernel, call, q_BHTK, rotated)

    def build(self, shape: StackShape, layer: int = 0, cross: bool = False) -> "Latent":
        return Latent(self, shape)


class Latent(Sublayer):
    """With c = Norm(x W_DKV) and k_R = rotated(x W_KR), head h has the keys [c W_UK^h; k_R] and the values c W_UV^h.

    What is kept of a token is c and k_R.  A decoding step does not make keys and values of them: it takes W_UK^h into
    the query and W_UV^h into the output, and attends over the latents themselves, which is the same (section 2.1.2).
    """

    joins: ClassVar[tuple[str, ...]] = ("query", "query_down", "latent", "rotary_key")

    def __init__(self, config: LatentConfig, shape: StackShape) -> None:
        super().__init__()
        self.config = config
        self.n_heads, self.d_head, self.d_rope, self.d_value, self.d_latent = config.widths()
        self.pattern, self.scale = config.seen(shape.direction), config.score_scale()
        d_model, wide, narrow = shape.d_model, self.n_heads * (self.d_head + self.d_rope), config.d_query_latent
        self.query = nn.Linear(d_model, wide, bias=False) if narrow is None else None
        self.query_down = None if narrow is None else nn.Linear(d_model, narrow, bias=False)
        self.query_norm = None if narrow is None else config.norm.build(narrow)
        self.query_up = None if narrow is None else nn.Linear(narrow, wide, bias=False)
        self.latent = nn.Linear(d_model, self.d_latent, bias=False)
        self.latent_norm = config.norm.build(self.d_latent)
        self.rotary_key = nn.Linear(d_model, self.d_rope, bias=False)
        # By head, as they are multiplied with latents or taken into queries and outputs.
        self.key_up = nn.Parameter(torch.empty(self.n_heads, self.d_head, self.d_latent))
        self.value_up = nn.Parameter(torch.empty(self.n_heads, self.d_value, self.d_latent))
        self.output = nn.Linear(self.n_heads * self.d_value, d_model, bias=False)
        std, output_std = shape.std(d_model), shape.output_std(self.n_heads * self.d_value)
        self._rules: dict[str, Rule] = {
            **{f"{name}.weight": Normal(std) for name in self.joins},
            "query_up.weight": Normal(shape.std(narrow or 1)),
            "key_up": Normal(shape.std(self.d_latent)),
            "value_up": Normal(shape.branch_std(self.d_latent)),
            "output.weight": Normal(output_std),
        }

    def forward(self, x_BTD: Tensor, context: Context, memory: Memory | None = None) -> tuple[Tensor, Report]:
        q_BTE, latent_BTL, k_BTR = self.project(x_BTD)
        if self.query_up is not None:
            assert self.query_norm is not None
            q_BTE = self.query_up(normalised(self.query_norm, q_BTE))
        q_BHTE = torch.unflatten(q_BTE, -1, (self.n_heads, -1)).transpose(1, 2)
        q_BHTK, q_BHTR = torch.split(q_BHTE, [self.d_head, self.d_rope], dim=-1)
        q_BHTR, k_B1TR = context.position.rotate(q_BHTR, k_BTR[:, None], context.layout)
        latent_BTL = normalised(self.latent_norm, latent_BTL)
        kept_B1SE, span = torch.cat([latent_BTL[:, None], k_B1TR], dim=-1), context.span
        if isinstance(memory, LatentMemory):
            assert context.state is not None
            (kept_B1SE,), span = memory.take((kept_B1SE,), context.state)
        kept_B1SE = kept_B1SE.to(q_BHTE.dtype)
        call = Attention(
            pattern=self.pattern,
            span=span,
            scale=self.scale,
            score_change=context.position.prepare(q_BHTR, kept_B1SE[..., self.d_latent :], span, self.scale),
            dropout=self.config.dropout if self.training else 0.0,
            want_weights="attention" in context.want,
        )
        if memory is not None and self._absorbs(q_BHTE.shape[2], kept_B1SE.shape[2]):
            attended, out_BHTV = self._over_latents(q_BHTK, q_BHTR, kept_B1SE, call)
        else:
            attended, out_BHTV = self._over_keys(q_BHTE, q_BHTR, kept_B1SE, call)
        y_BTD = self.output(out_BHTV.transpose(1, 2).flatten(2))
        weights = attended.weights_BHTS
        return y_BTD, EMPTY if weights is None else Report(attention={"weights": weights})

    def _absorbs(self, n_queries: int, n_keys: int) -> bool:
        """Whether it takes fewer products to attend over latents than to make keys and values of those seen before."""
        if n_queries == 1:
            return True
        made = self.d_head + self.d_value
        more_by_pair = 2 * (self.d_latent + self.d_rope) - (made + self.d_rope)
        return n_queries * n_keys * more_by_pair < (n_keys - n_queries) * made * self.d_latent

    def _over_keys(self, q_BHTE: Tensor, q_BHTR: Tensor, kept_B1SE: Tensor, call: Attention) -> tuple[Attended, Tensor]:
        """With keys and values made of the latents."""
        latent_B1SL, k_B1SR = torch.split(kept_B1SE, [self.d_latent, self.d_rope], dim=-1)
        k_BHSK, v_BHSV = (latent_B1SL @ up.transpose(-1, -2) for up in (self.key_up, self.value_up))
        q_BHTE = torch.cat([q_BHTE[..., : self.d_head], q_BHTR], dim=-1)
        k_BHSE = torch.cat([k_BHSK, k_B1SR.expand(-1, self.n_heads, -1, -1).to(k_BHSK.dtype)], dim=-1)
        attended = attend(q_BHTE, k_BHSE, v_BHSV, call, self.config.kernel)
        return attended, attended.out_BHTK

    def _over_latents(
        self, q_BHTK: Tensor, q_BHTR: Tensor, kept_B1SE: Tensor, call: Attention
    ) -> tuple[Attended, Tensor]:
        """With the matrices that make keys and values taken into queries and outputs."""
        q_BHTE = torch.cat([(q_BHTK @ self.key_up).to(q_BHTR.dtype), q_BHTR], dim=-1)
        # The rotated keys are carried along as values and left out behind: to cut them off before would copy the cache.
        attended = attend(q_BHTE, kept_B1SE, kept_B1SE, call, self.config.kernel)
        return attended, attended.out_BHTK[..., : self.d_latent] @ self.value_up.transpose(-1, -2)

    def new_memory(
        self, batch_size: int, max_length: int, max_rewind: int, device: torch.device, dtype: torch.dtype
    ) -> LatentMemory:
        width = self.d_latent + self.d_rope
        return LatentMemory(self.pattern.reach, batch_size, width, max_length, max_rewind, device, dtype)

    def initial_values(self) -> Mapping[str, Rule]:
        return self._rules
