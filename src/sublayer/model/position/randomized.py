"""Randomized positions: in training, positions of a far longer text."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from sublayer.config import Count
from sublayer.model.attention.pattern.base import Pattern
from sublayer.model.attention.score import ScoreChange
from sublayer.model.layout import Layout, Span
from sublayer.model.part import CacheExact, Heads, StackShape
from sublayer.model.position.base import Position, PositionChoice, PositionConfig
from sublayer.model.position.rope import RopeConfig


@PositionConfig.registry.register
class RandomizedConfig(PositionConfig):
    """Another encoding that in training sees a random rising choice of larger positions, in place of 0, 1, 2 …."""

    paper: ClassVar[str] = "Ruoss et al. 2023, section 3"
    shift_invariant: ClassVar[bool] = True  # beside what the encoding inside says

    kind: Literal["randomized"] = "randomized"
    position: PositionChoice = RopeConfig()
    """The encoding inside, made for texts of max_position tokens."""
    max_position: Count | None = None
    """M: positions are drawn below it; left out, four times max_length."""

    # What is asked of the encoding is asked of the one inside.

    @classmethod
    def abilities(cls) -> tuple[str, ...]:
        return ("those of the encoding inside",)

    @property
    def embeds(self) -> bool:  # type: ignore[override]
        return self.position.embeds

    @property
    def shared(self) -> bool:  # type: ignore[override]
        return self.position.shared

    @property
    def changes_values(self) -> bool:
        return self.position.changes_values

    def filled(self, shape: StackShape) -> Self:
        if isinstance(self.position, RandomizedConfig):
            raise ValueError("randomized positions are drawn once; choose another encoding inside")
        if shape.direction not in self.position.directions:
            raise ValueError(f"'{self.position.kind_name()}' is not defined for {shape.words}; choose another inside")
        farthest = self.max_position or 4 * shape.max_length
        if farthest < shape.max_length:
            raise ValueError(
                f"max_position ({farthest}) is below max_length ({shape.max_length}), so there are too few positions "
                "to draw from; raise it"
            )
        filled = self.model_copy(update={"max_position": farthest})
        return filled.model_copy(update={"position": self.position.filled(filled._longer(shape))})

    def cache_exact(self, shape: StackShape) -> CacheExact:
        inside, length = self.position.cache_exact(self._longer(shape)), self.longest(shape)
        return CacheExact(length if inside.length is None else min(inside.length, length), inside.reason)

    def longest(self, shape: StackShape) -> int:
        return self._longer(shape).max_length  # no more can be drawn

    def d_token(self, shape: StackShape) -> int:
        return self.position.d_token(shape)

    def check(self, shape: StackShape, heads: Heads, seen: Pattern) -> None:
        self.position.check(self._longer(shape), heads, seen)

    def token_flops(self, weights: Mapping[str, tuple[int, ...]]) -> float:
        inside = {name.removeprefix("inside."): shape for name, shape in weights.items()}
        return self.position.token_flops(inside)

    def query_flops(self, shape: StackShape, heads: Heads) -> int:
        return self.position.query_flops(self._longer(shape), heads)

    def pair_flops(self, heads: Heads) -> int:
        return self.position.pair_flops(heads)

    def fixed_flops(self, heads: Heads) -> int:
        return self.position.fixed_flops(heads)

    def build(self, shape: StackShape, heads: Heads) -> "Randomized":
        assert self.max_position is not None
        return Randomized(self.position.build(self._longer(shape), heads), self.max_position)

    def _longer(self, shape: StackShape) -> StackShape:
        """The shape that the encoding inside is made for."""
        return replace(shape, max_length=self.max_position or 4 * shape.max_length)


class Randomized(Position):
    """In training, place n of a document gets the nth of T positions drawn without replacement below M, in order.

    One draw serves the whole batch and all layers with the same M; a document that is packed or padded behind others
    begins with the first of them too.  In evaluation positions are as they are.  Patterns and masks never see the draw.
    """

    def __init__(self, inside: Position, max_position: int) -> None:
        super().__init__()
        self.inside = inside
        self.max_position = max_position

    def embed(self, x_BTD: Tensor, layout: Layout) -> Tensor:
        return self.inside.embed(x_BTD, self._layout(layout))

    def rotate(self, q_BHTK: Tensor, k_BHTK: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        return self.inside.rotate(q_BHTK, k_BHTK, self._layout(layout))

    def prepare(self, q_BHTK: Tensor, k_BGSK: Tensor, span: Span, scale: float) -> ScoreChange | None:
        if not self.training:
            return self.inside.prepare(q_BHTK, k_BGSK, span, scale)
        drawn = span.once(f"drawn span {self.max_position}", lambda: self._drawn_span(span))
        change = self.inside.prepare(q_BHTK, k_BGSK, drawn, scale)
        return None if change is None else Elsewhere(change, drawn)

    def _layout(self, layout: Layout) -> Layout:
        if not self.training:
            return layout
        return layout.once(f"drawn layout {self.max_position}", lambda: self._drawn_layout(layout))

    def _drawn_layout(self, layout: Layout) -> Layout:
        assert layout.positions_BT is not None
        drawn = self._draw(layout, layout.positions_BT)
        return Layout(drawn[layout.positions_BT], layout.document_BT, layout.valid_BT)

    def _drawn_span(self, span: Span) -> Span:
        drawn = self._draw(span, span.query_positions)
        queries, keys = drawn[span.query_positions], drawn[span.key_positions]
        return replace(span, query_positions=queries, key_positions=keys, aligned=False, newest=False, _memo={})

    def _draw(self, shared: Layout | Span, positions_BT: Tensor) -> Tensor:
        """Positions in order, by place, T at least; the same for a layout and the span of its tokens.

        As many are drawn as there are places up to the last: more than tokens, where a layout leaves some out.
        """

        def draw() -> Tensor:
            order = torch.randperm(self.max_position, device=positions_BT.device)
            n_drawn = (positions_BT.max() + 1).clamp(min=positions_BT.shape[1])  # a tensor: nothing waits for a GPU
            return torch.where(torch.arange(len(order), device=order.device) < n_drawn, order, len(order)).sort().values

        return shared.once(f"drawn {self.max_position}", draw)


@dataclass(frozen=True)
class Elsewhere(ScoreChange):
    """A change that is for other positions than those of the span that kernels see.

    Attributes:
        change: made for `span`.
        span: queries and keys at those positions.
    """

    change: ScoreChange
    span: Span

    @property
    def changes_values(self) -> bool:  # type: ignore[override]
        return self.change.changes_values

    def dense(self, span: Span) -> Tensor:
        return self.change.dense(self.span)

    def values(self, weights_BHTS: Tensor, span: Span) -> Tensor:
        return self.change.values(weights_BHTS, self.span)
