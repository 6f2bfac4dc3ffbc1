"""What attentions remember: the keys and values of all tokens, or of the last ones where the pattern's reach is finite,
and those of a source.

Shapes: B batch, G key/value heads, T new tokens, S keys in view, C capacity, K head width.
"""

from typing import ClassVar

import torch
from torch import Tensor

from sublayer.model.attention.pattern.base import Reach
from sublayer.model.layout import Layout, Span
from sublayer.model.state import Memory, Placement, State


class KeyValueMemory(Memory):
    """Keys (already rotated) and values by slot.

    Args:
        reach: of the pattern; a finite one without pinned positions is served by a ring buffer.
    """

    holds: ClassVar[str] = "keys and values"

    def __init__(
        self,
        reach: Reach,
        batch_size: int,
        n_kv_heads: int,
        d_head: int,
        max_length: int,
        max_rewind: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        window = None if reach.window is None else reach.window + max_rewind
        self.ring = window is not None and window < max_length
        self.capacity: int = window if window is not None and window < max_length else max_length
        # One slot more than is kept: where tokens that are not kept are written to, and never read.
        shape = (batch_size, n_kv_heads, self.capacity + 1, d_head)
        self.k_BGCK = torch.zeros(shape, device=device, dtype=dtype)
        self.v_BGCK = torch.zeros(shape, device=device, dtype=dtype)

    @property
    def token_bytes(self) -> int:
        return sum(cache.shape[1] * cache.shape[3] * cache.itemsize for cache in (self.k_BGCK, self.v_BGCK))

    def extend(self, k_BGTK: Tensor, v_BGTK: Tensor, state: State) -> tuple[Tensor, Tensor, Span]:
        """Take in the keys and values of new tokens; returns all that are in view, [B, G, S, K], and the span."""
        place = state.placement(self.capacity, self.ring)
        k_BGTK, v_BGTK = k_BGTK.to(self.k_BGCK.dtype), v_BGTK.to(self.v_BGCK.dtype)
        if place.span.aligned:
            self._write(k_BGTK, v_BGTK, place)
            return k_BGTK, v_BGTK, place.span
        if place.before:
            k = torch.cat([self.k_BGCK[:, :, : place.n_slots], k_BGTK], dim=2)
            v = torch.cat([self.v_BGCK[:, :, : place.n_slots], v_BGTK], dim=2)
            self._write(k_BGTK, v_BGTK, place)
            return k, v, place.span
        self._write(k_BGTK, v_BGTK, place)
        return self.k_BGCK[:, :, : place.n_slots], self.v_BGCK[:, :, : place.n_slots], place.span

    def _write(self, k_BGTK: Tensor, v_BGTK: Tensor, place: Placement) -> None:
        if place.first is not None:
            slots = slice(place.first, place.first + k_BGTK.shape[2])
            self.k_BGCK[:, :, slots], self.v_BGCK[:, :, slots] = k_BGTK, v_BGTK
            return
        index = place.slots_BT[:, None, :, None].expand_as(k_BGTK)
        self.k_BGCK.scatter_(2, index, k_BGTK)
        self.v_BGCK.scatter_(2, index, v_BGTK)

    def select(self, rows: Tensor) -> None:
        self.k_BGCK, self.v_BGCK = self.k_BGCK[rows], self.v_BGCK[rows]


class SourceMemory(Memory):
    """The keys and values of a source, which are computed once.

    Args:
        n_kv_heads, d_head: what is kept of a token.
        dtype: in which it is kept.
    """

    holds: ClassVar[str] = "keys and values of the source"

    def __init__(self, n_kv_heads: int, d_head: int, dtype: torch.dtype) -> None:
        self.n_kv_heads, self.d_head, self.dtype = n_kv_heads, d_head, dtype
        self.k_BGSK: Tensor | None = None
        self.v_BGSK: Tensor | None = None
        self.layout = Layout()

    @property
    def source_bytes(self) -> int:
        """Memory held of each token of each row's source."""
        return 2 * self.n_kv_heads * self.d_head * self.dtype.itemsize

    def keep(self, k_BGSK: Tensor, v_BGSK: Tensor, layout: Layout) -> None:
        """Remember these keys and values, in place of any others; `layout` is the source's, resolved."""
        self.k_BGSK, self.v_BGSK, self.layout = k_BGSK.to(self.dtype), v_BGSK.to(self.dtype), layout

    def kept(self) -> tuple[Tensor, Tensor, Layout]:
        """What was remembered.

        Raises:
            ValueError: when no source was given yet.
        """
        if self.k_BGSK is None or self.v_BGSK is None:
            raise ValueError("the state has seen no source: give it with the first tokens (source=…).")
        return self.k_BGSK, self.v_BGSK, self.layout

    def select(self, rows: Tensor) -> None:
        if self.k_BGSK is None or self.v_BGSK is None:
            return
        self.k_BGSK, self.v_BGSK = self.k_BGSK[rows], self.v_BGSK[rows]
        self.layout = self.layout.select(rows)
