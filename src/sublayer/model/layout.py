"""Where each token stands: positions, documents, padding, and which queries may meet which keys.

Shapes: B batch, T queries, S keys.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from sublayer.model.attention.pattern.base import Pattern

R = TypeVar("R")


@dataclass(frozen=True)
class Layout:
    """Padding, packing, ragged prompts, random offsets and skips, all said in one way.

    Every field may be left out; `Layout()` is a plain batch: one document a row, no padding, positions 0 … T−1.

    Attributes:
        positions_BT: the position of each token *in its document* (int64, rising along a document).  Left out, they are
            counted from the documents and the padding.
        document_BT: the document that each token belongs to (int64); tokens of different documents never meet.  A
            document's tokens stand together, and no other document of the row has its number.
        valid_BT: False where a token is padding (bool); padding may stand at either end.
        segment_BT: which segment of its document each token is in (int64), for a model with embeddings of segments.
    """

    positions_BT: Tensor | None = None
    document_BT: Tensor | None = None
    valid_BT: Tensor | None = None
    segment_BT: Tensor | None = None
    _memo: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def ragged(cls, lengths: list[int], device: torch.device | str = "cpu") -> Self:
        """The layout of rows of unequal length, padded at their end to the longest."""
        columns = torch.arange(max(lengths), device=device)
        return cls(valid_BT=columns < torch.tensor(lengths, device=device)[:, None])

    def check(self, tokens_BT: Tensor) -> None:
        """Refuse a layout that does not fit the batch.

        Raises:
            ValueError: when a field's shape is not that of the tokens, or its type not the one stated above.
        """
        types = {
            "positions_BT": torch.int64,
            "document_BT": torch.int64,
            "valid_BT": torch.bool,
            "segment_BT": torch.int64,
        }
        for name, dtype in types.items():
            value = getattr(self, name)
            if value is None:
                continue
            if value.dtype != dtype:
                raise ValueError(f"layout.{name} holds {value.dtype}, and must hold {dtype}.")
            if value.shape != tokens_BT.shape:
                raise ValueError(
                    f"layout.{name} has shape {tuple(value.shape)}, but the tokens have {tuple(tokens_BT.shape)}; "
                    "they must be equal."
                )

    @property
    def plain(self) -> bool:
        """Whether nothing is said of where tokens stand: one document a row, no padding, positions by counting."""
        return self.positions_BT is None and self.document_BT is None and self.valid_BT is None

    def resolved(self, n_tokens: int, device: torch.device) -> "Layout":
        """This layout with positions: [1, T] when plain, else [B, T]."""
        if self.positions_BT is not None:
            positions = self.positions_BT
        elif self.valid_BT is None and self.document_BT is None:
            positions = torch.arange(n_tokens, device=device)[None]
        else:
            positions = self._counted(n_tokens, device)
        return Layout(positions, self.document_BT, self.valid_BT, self.segment_BT)

    def _counted(self, n_tokens: int, device: torch.device) -> Tensor:
        """Positions counted over valid tokens, from zero at each document's first."""
        if self.valid_BT is None:
            index = torch.arange(n_tokens, device=device)[None]
        else:
            index = (self.valid_BT.long().cumsum(1) - 1).clamp(min=0)
        if self.document_BT is None:
            return index
        index = index.expand_as(self.document_BT)
        first = torch.ones_like(self.document_BT, dtype=torch.bool)
        first[:, 1:] = self.document_BT[:, 1:] != self.document_BT[:, :-1]
        return index - torch.where(first, index, 0).cummax(1).values

    def lengths(self) -> Tensor:
        """Tokens in the document of each token as its positions have it, the last one + 1 (of a resolved layout).

        [1 or B, T], or [1 or B, 1] where rows are single documents; padding is not counted.
        """
        assert self.positions_BT is not None
        positions = self.positions_BT
        if self.valid_BT is not None:
            positions = positions.masked_fill(~self.valid_BT, 0)
        if self.document_BT is None:
            return positions.amax(1, keepdim=True) + 1
        change = self.document_BT[:, 1:] != self.document_BT[:, :-1]
        place = F.pad(change.long().cumsum(1), (1, 0))  # documents by their order in the row
        positions = positions.expand_as(place)
        return torch.zeros_like(place).scatter_reduce(1, place, positions, "amax").gather(1, place) + 1

    def select(self, rows: Tensor) -> "Layout":
        """The layout of these rows of the batch, in this order."""

        def chosen(x: Tensor | None) -> Tensor | None:
            return x if x is None or x.shape[0] == 1 else x[rows]

        return Layout(
            chosen(self.positions_BT), chosen(self.document_BT), chosen(self.valid_BT), chosen(self.segment_BT)
        )

    def once(self, key: str, compute: Callable[[], R]) -> R:
        """A value that all layers share, computed at the first request (of a resolved layout: once a forward pass)."""
        if key not in self._memo:
            self._memo[key] = compute()
        return cast(R, self._memo[key])


@dataclass(frozen=True)
class Span:
    """Queries and the keys they may meet.

    Attributes:
        query_positions: [1 or B, T]; key_positions: [1 or B, S].
        query_document, key_document: the same shapes, or None for one document.
        key_valid: [B, S], False for padding and for slots of a cache that hold nothing; None when all are valid.
        whole: the token of every query is among the keys.
        aligned: the keys are the queries themselves, one plain document a row.
        newest: the only query stands behind every key, so causality hides none.
    """

    query_positions: Tensor
    key_positions: Tensor
    query_document: Tensor | None = None
    key_document: Tensor | None = None
    key_valid: Tensor | None = None
    whole: bool = False
    aligned: bool = False
    newest: bool = False
    _memo: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def within(cls, layout: Layout, plain: bool) -> Self:
        """Every token of a resolved layout as query and as key; what is remembered of one is of both."""
        positions, document = layout.positions_BT, layout.document_BT
        assert positions is not None
        return cls(
            positions, positions, document, document, layout.valid_BT, whole=True, aligned=plain, _memo=layout._memo
        )

    @classmethod
    def across(cls, layout: Layout, source: Layout) -> Self:
        """Every token of a resolved layout as query, and every token of another, of a source, as key.

        Raises:
            ValueError: when one of them says which documents there are and the other does not.
        """
        if (layout.document_BT is None) != (source.document_BT is None):
            raise ValueError(
                "the layouts of the tokens and of the source must both say which documents there are, or neither, as a "
                "token sees the source of its own document."
            )
        assert layout.positions_BT is not None and source.positions_BT is not None
        return cls(layout.positions_BT, source.positions_BT, layout.document_BT, source.document_BT, source.valid_BT)

    def offsets(self) -> Tensor:
        """How far back each key lies: query position − key position, [1 or B, T, S]."""
        return self.once("offsets", lambda: self.query_positions[:, :, None] - self.key_positions[:, None, :])

    def visible(self, pattern: "Pattern") -> Tensor | None:
        """Which key each query sees, [1 or B, 1, T, S]; None when each sees all."""
        if pattern.sees_all(self) and self.key_document is None and self.key_valid is None:
            return None  # as in most decoding steps, where to name the memo would take longer than to look
        return self.once(f"visible {pattern}", lambda: self._visible(pattern))

    def _visible(self, pattern: "Pattern") -> Tensor | None:
        mask = None
        if not pattern.sees_all(self):
            mask = pattern.visible(self.query_positions[:, :, None], self.key_positions[:, None, :])
        if self.query_document is not None and self.key_document is not None:
            same = self.query_document[:, :, None] == self.key_document[:, None, :]
            mask = same if mask is None else mask & same
        if self.key_valid is not None:
            valid = self.key_valid[:, None, :]
            mask = valid.expand(-1, self.query_positions.shape[1], -1) if mask is None else mask & valid
        return None if mask is None else mask[:, None]

    def once(self, key: str, compute: Callable[[], R]) -> R:
        """A value that all layers with this span share, computed at the first request."""
        if key not in self._memo:
            self._memo[key] = compute()
        return cast(R, self._memo[key])
