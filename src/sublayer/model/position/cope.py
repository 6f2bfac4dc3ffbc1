"""Contextual position encoding (CoPE).

Shapes: B batch, H heads, G key/value heads, T queries, S keys, K head width, P positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sublayer.config import Count
from sublayer.model.attention.pattern.base import Causal, Pattern
from sublayer.model.attention.score import ScoreChange
from sublayer.model.initialise import Constant, Rule
from sublayer.model.layout import Span
from sublayer.model.part import Direction, Heads, StackShape
from sublayer.model.position.base import Position, PositionConfig
from sublayer.model.precision import at_least_float32, without_autocast


@PositionConfig.registry.register
class CopeConfig(PositionConfig):
    """Count between a query and a key only tokens that the query's gates let count; a table for each layer."""

    paper: ClassVar[str] = "Golovneva et al. 2024, equations 3 to 6"
    directions: ClassVar[frozenset[Direction]] = frozenset({"causal"})
    shift_invariant: ClassVar[bool] = True
    shared: ClassVar[bool] = False

    kind: Literal["cope"] = "cope"
    n_positions: Annotated[Count, Field(ge=2)] = 64
    """Counts with a vector, from 0 on; higher ones share the last."""

    def check(self, shape: StackShape, heads: Heads, seen: Pattern) -> None:
        if seen.reach.pinned:
            raise ValueError(
                "cope counts the tokens between a query and a key, and this attention forgets some of them while it "
                "keeps the first ones in view; choose a pattern without kept tokens"
            )

    def query_flops(self, shape: StackShape, heads: Heads) -> int:
        return 2 * heads.count * heads.width * self.n_positions

    def pair_flops(self, heads: Heads) -> int:
        return 2 * heads.count * heads.width

    def build(self, shape: StackShape, heads: Heads) -> "Cope":
        return Cope(self, heads)


class Cope(Position):
    """score(i, j) + q_i·e[p_ij], where p_ij = Σ_{k=j…i} σ(score(i, k)) and e is a line between whole numbers.

    Every token of the document from the key to the query counts, whether the attention's pattern shows it or not.
    Heads share the table, as in the authors' code.
    """

    def __init__(self, config: CopeConfig, heads: Heads) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.n_positions, heads.width))

    def prepare(self, q_BHTK: Tensor, k_BGSK: Tensor, span: Span, scale: float) -> "CopeChange":
        return CopeChange(self, q_BHTK, k_BGSK, scale)

    def initial_values(self) -> Mapping[str, Rule]:
        return {"weight": Constant(0.0)}  # as in the authors' code: at the start there are no positions


@dataclass(frozen=True)
class CopeChange(ScoreChange):
    """What these queries get for the counts of these keys.

    Attributes:
        position: whose table it is.
        q_BHTK, k_BGSK: queries and keys.
        scale: of scores.
    """

    position: Cope
    q_BHTK: Tensor
    k_BGSK: Tensor
    scale: float

    def dense(self, span: Span) -> Tensor:
        with without_autocast(self.q_BHTK):
            table_PK = at_least_float32(self.position.weight)
            q_BHTK = self.q_BHTK.to(table_PK.dtype)
            counts = self.counts(q_BHTK, span).clamp(max=len(table_PK) - 1)
            below = counts.detach().floor().long()
            values_BHTP = q_BHTK @ table_PK.T
            low = values_BHTP.gather(3, below)
            high = values_BHTP.gather(3, (below + 1).clamp(max=len(table_PK) - 1))
            return low + (counts - below) * (high - low)

    def counts(self, q_BHTK: Tensor, span: Span) -> Tensor:
        """p_ij, [B, H, T, S]; for keys that the query does not see, anything."""
        keys = self.k_BGSK.to(q_BHTK.dtype).repeat_interleave(q_BHTK.shape[1] // self.k_BGSK.shape[1], dim=1)
        gates = (self.scale * (q_BHTK @ keys.transpose(-1, -2))).sigmoid()
        between = span.visible(Causal())
        if between is not None:
            gates = gates * between
        if span.aligned:
            return _sums_from_the_end(gates)
        # Keys stand in the order of their text everywhere but in a ring.
        order = span.once("order of keys", lambda: span.key_positions.argsort(dim=1, stable=True))
        back = span.once("back from the order of keys", lambda: order.argsort(dim=1))
        in_order, out_of_order = (
            index[:, None, None].expand(*gates.shape[:3], index.shape[1]) for index in (order, back)
        )
        return _sums_from_the_end(gates.gather(3, in_order)).gather(3, out_of_order)


def _sums_from_the_end(x: Tensor) -> Tensor:
    return x.flip(-1).cumsum(-1).flip(-1)
