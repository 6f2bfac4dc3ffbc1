"""What attentions remember: the keys and values of all tokens, or of the last ones where the pattern's reach is finite,
and those of a source.

Shapes: B batch, G key/value heads, T new tokens, S keys in view, C capacity, K head width.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from sublayer.model.attention.pattern.base import Reach
from sublayer.model.layout import Layout, Span
from sublayer.model.state import Memory, Placement, State


class SlotMemory(Memory):
    """What is kept of single tokens, by slot.

    Args:
        reach: of the pattern.  A finite one is served by a ring buffer, with slots of their own for pinned positions.
        widths: of each tensor that is kept of a token: heads and features.
    """

    def __init__(
        self,
        reach: Reach,
        batch_size: int,
        widths: Sequence[tuple[int, int]],
        max_length: int,
        max_rewind: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.capacity: int = max_length
        self.ring = False
        if reach.back is not None:
            slots = max(1, reach.back) + max_rewind + (reach.pinned + max_rewind if reach.pinned else 0)
            if slots < max_length:
                self.capacity, self.ring, self.pinned = slots, True, reach.pinned
        # One slot more than is kept: where tokens that are not kept are written to, and never read.
        self.held = tuple(
            torch.zeros((batch_size, n_heads, self.capacity + 1, width), device=device, dtype=dtype)
            for n_heads, width in widths
        )

    @property
    def token_bytes(self) -> int:
        return sum(cache.shape[1] * cache.shape[3] * cache.itemsize for cache in self.held)

    @property
    def n_bytes(self) -> int:
        return sum(cache.nbytes for cache in self.held)

    def take(self, new: Sequence[Tensor], state: State) -> tuple[Sequence[Tensor], Span]:
        """Take in what is to be kept of new tokens, [B, heads, T, features] each.

        Returns:
            That of all tokens in view, [B, heads, S, features] each, and the span.
        """
        place = state.placement(self.capacity, self.ring, self.pinned)
        new = [each.to(cache.dtype) for each, cache in zip(new, self.held, strict=True)]
        if place.span.aligned:
            self._write(new, place)
            return new, place.span
        if place.before:
            pairs = zip(self.held, new, strict=True)
            joined = [torch.cat([cache[:, :, : place.n_slots], each], dim=2) for cache, each in pairs]
            self._write(new, place)
            return joined, place.span
        self._write(new, place)
        return [cache[:, :, : place.n_slots] for cache in self.held], place.span

    def _write(self, new: Sequence[Tensor], place: Placement) -> None:
        for cache, each in zip(self.held, new, strict=True):
            if place.first is not None:
                cache[:, :, place.first : place.first + each.shape[2]] = each
            else:
                cache.scatter_(2, place.slots_BT[:, None, :, None].expand_as(each), each)

    def select(self, rows: Tensor) -> None:
        self.held = tuple(cache[rows] for cache in self.held)


class KeyValueMemory(SlotMemory):
    """Keys (already rotated) and values.

    Args:
        reach: of the pattern.
        keys, values: heads and features of each.
    """

    holds: ClassVar[str] = "keys and values"

    def __init__(
        self,
        reach: Reach,
        batch_size: int,
        keys: tuple[int, int],
        values: tuple[int, int],
        max_length: int,
        max_rewind: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(reach, batch_size, (keys, values), max_length, max_rewind, device, dtype)

    @property
    def k_BGCK(self) -> Tensor:
        return self.held[0]

    @property
    def v_BGCK(self) -> Tensor:
        return self.held[1]

    def extend(self, k_BGTK: Tensor, v_BGTK: Tensor, state: State) -> tuple[Tensor, Tensor, Span]:
        """Take in the keys and values of new tokens; returns all that are in view, [B, G, S, K], and the span."""
        (k_BGSK, v_BGSK), span = self.take((k_BGTK, v_BGTK), state)
        return k_BGSK, v_BGSK, span


class LatentMemory(SlotMemory):
    """What keys and values of all heads are made from: one vector a token, with the rotated key beside it.

    Args:
        reach: of the pattern.
        width: of both together.
    """

    holds: ClassVar[str] = "latents and rotated keys"

    def __init__(
        self,
        reach: Reach,
        batch_size: int,
        width: int,
        max_length: int,
        max_rewind: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(reach, batch_size, ((1, width),), max_length, max_rewind, device, dtype)


class SourceMemory(Memory):
    """The keys and values of a source, which are computed once.

    Args:
        n_kv_heads, d_head: what is kept of a token.
        dtype: in which it is kept.
    """

    holds: ClassVar[str] = "keys and values of the source"
    of_source: ClassVar[bool] = True

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
