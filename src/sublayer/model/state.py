"""Decoding state: what each sublayer must remember of the tokens already seen.

The state counts tokens by row; each sublayer owns a memory of its own (a key/value cache, a ring buffer, …) and is told
in which slots to write.  Tokens of a row are numbered by *ordinal*: 0 for its first valid token, padding not counted.
Shapes: B batch, T new tokens, L longest sequence, C capacity of a memory, S slots in view.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sublayer.model.layout import Layout, Span
from sublayer.model.slots import Slots


class Memory:
    """What one sublayer keeps between calls."""

    holds: ClassVar[str] = "what was computed of it"
    """What is kept of a token, in a few words."""
    of_source: ClassVar[bool] = False
    """What is kept is of the source alone, and equal in rows that have the same one."""
    capacity: int | None = None
    """Tokens that a row has room for; None for what does not grow with them."""

    pinned: int = 0
    """Of a ring, how many first positions of a document have slots of their own, before the others'."""

    @property
    def token_bytes(self) -> int:
        """Memory held of each token of each row."""
        return 0

    @property
    def source_bytes(self) -> int:
        """Memory held, once there is a source, of each of its tokens in each row."""
        return 0

    @property
    def n_bytes(self) -> int:
        """Memory held: that of the tensors among its attributes."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, Tensor))

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order (for beams and finished rows)."""
        raise NotImplementedError

    def rewind(self, n_tokens: Tensor) -> None:
        """Forget the last tokens of each row, n_tokens [B].  What is addressed by ordinal needs to do nothing."""


@dataclass(frozen=True)
class Placement:
    """Where this call's tokens go in a memory of some capacity, and what is then in view.

    Attributes:
        slots_BT: the slot of each new token; the capacity itself, a spare slot, for one that is not kept.
        first: the first of them where they are the same in every row and stand one behind the other; else None.
        before: the memory is read before the new tokens are written, with these beside it (several tokens at once would
            overwrite, in a ring, what the first of them must still see).
        n_slots: how many slots are in view.
        span: the queries, and the keys in view: the memory's slots and, with `before`, the new tokens behind them.
    """

    slots_BT: Tensor
    first: int | None
    before: bool
    n_slots: int
    span: Span


class State:
    """The tokens a model has seen, by row, and the memory of each layer.

    Args:
        batch_size: rows.
        max_length: tokens a row can hold.
        max_rewind: how many tokens `rewind` can take back.
        layers: the memories of each layer's sublayers, None where one needs none.
    """

    def __init__(
        self,
        batch_size: int,
        max_length: int,
        max_rewind: int,
        layers: list[list[Memory | None]],
        device: torch.device,
    ) -> None:
        self.max_length = max_length
        self.max_rewind = max_rewind
        self.layers = layers
        self.sourced = False
        """Whether cross-attentions remember a source."""
        self._source_B = torch.arange(batch_size, device=device)
        self.length_B = torch.zeros(batch_size, dtype=torch.int64, device=device)
        # One column more than tokens fit: where padding is written to, and never read.
        self._position_BL = torch.zeros(batch_size, max_length + 1, dtype=torch.int64, device=device)
        self._document_BL: Tensor | None = None
        # Known without asking the device: no row is longer, and whether all are equally long and plainly counted.
        self._filled = 0
        self._uniform = True
        # The length from which each row was last taken back: a ring still holds those tokens' keys.
        self._furthest_B = self.length_B
        self._placements: dict[tuple[int, bool, int], Placement] = {}
        self._pinned = {
            (memory.capacity, memory.pinned): (
                Slots(batch_size, memory.pinned + max_rewind, device),
                Slots(batch_size, memory.capacity - memory.pinned - max_rewind, device),
            )
            for layer in layers
            for memory in layer
            if memory is not None and memory.capacity is not None and memory.pinned
        }
        self._ordinals_BT = self._position_BL[:, :0]

    @property
    def batch_size(self) -> int:
        return self.length_B.shape[0]

    @property
    def n_bytes(self) -> int:
        """Memory held, by the layers and by the counts of tokens."""
        counts = (self.length_B, self._position_BL, self._document_BL)
        held = sum(memory.n_bytes for layer in self.layers for memory in layer if memory is not None)
        held += sum(slots.n_bytes for both in self._pinned.values() for slots in both)
        return held + sum(count.nbytes for count in counts if count is not None)

    def advance(self, layout: Layout, n_tokens: int) -> Layout:
        """Take in the layout of new tokens; returns it with positions that go on from the last ones.

        Raises:
            ValueError: when a row would hold more than max_length tokens.
        """
        device = self.length_B.device
        if self._filled + n_tokens > self.max_length:
            self._filled = int(self.length_B.max())  # padding and rewinding make the known bound a loose one
            new_B = torch.full_like(self.length_B, n_tokens) if layout.valid_BT is None else layout.valid_BT.sum(1)
            fullest = int((self.length_B + new_B).argmax())
            held, new = int(self.length_B[fullest]), int(new_B[fullest])
            if held + new > self.max_length:
                raise ValueError(
                    f"the state holds {held} tokens and {new} more came, but it has room for {self.max_length}: "
                    "make it with a larger max_length."
                )
        self._placements = {}
        steps = torch.arange(n_tokens, device=device)[None].expand(self.batch_size, -1)
        if layout.valid_BT is None:
            ordinals, grown = self.length_B[:, None] + steps, self.length_B + n_tokens
        else:
            counted = self.length_B[:, None] + layout.valid_BT.long().cumsum(1) - 1
            ordinals = torch.where(layout.valid_BT, counted, self.max_length)
            grown = self.length_B + layout.valid_BT.sum(1)
        self._uniform &= layout.plain

        if layout.positions_BT is not None:
            positions = layout.positions_BT
        else:
            positions = self._following(layout, ordinals)
        self._position_BL.scatter_(1, ordinals, positions.expand_as(ordinals))
        if layout.document_BT is not None or self._document_BL is not None:
            if self._document_BL is None:
                self._document_BL = torch.zeros_like(self._position_BL)
            document = layout.document_BT if layout.document_BT is not None else self._last(self._document_BL)
            self._document_BL.scatter_(1, ordinals, document.expand_as(ordinals))
            layout = Layout(positions, self._document_BL.gather(1, ordinals), layout.valid_BT, layout.segment_BT)
        else:
            layout = Layout(positions, None, layout.valid_BT, layout.segment_BT)
        self._ordinals_BT, self.length_B = ordinals, grown
        self._layout = layout
        self._before = self._filled
        self._filled = min(self._filled + n_tokens, self.max_length)
        return layout

    def _last(self, values_BL: Tensor) -> Tensor:
        """The value of each row's last token, [B, 1]; 0 in an empty row."""
        return torch.where(self.length_B > 0, values_BL.gather(1, (self.length_B - 1).clamp(min=0)[:, None])[:, 0], 0)[
            :, None
        ]

    def _following(self, layout: Layout, ordinals_BT: Tensor) -> Tensor:
        """Positions that count on from each row's last token, and from 0 in a new document."""
        if self._uniform:
            return torch.arange(self._filled, self._filled + ordinals_BT.shape[1], device=ordinals_BT.device)[None]
        start = torch.where(self.length_B[:, None] > 0, self._last(self._position_BL) + 1, 0)
        n_tokens = ordinals_BT.shape[1]
        counted = Layout(None, layout.document_BT, layout.valid_BT).resolved(n_tokens, ordinals_BT.device).positions_BT
        assert counted is not None
        if layout.document_BT is None:
            return start + counted
        return torch.where(layout.document_BT == self._last_document(), start + counted, counted)

    def _last_document(self) -> Tensor:
        if self._document_BL is None:
            return torch.zeros_like(self.length_B)[:, None]
        return self._last(self._document_BL)

    def placement(self, capacity: int, ring: bool, pinned: int = 0) -> Placement:
        """Where to write and what is in view, for a memory that keeps the last tokens (`ring`) or all.

        Args:
            capacity: how many tokens it keeps.
            ring: whether it keeps the last ones only.
            pinned: how many first positions of a document a ring keeps as well, in slots of their own.
        """
        key = (capacity, ring, pinned)
        if key not in self._placements:
            if pinned:
                self._placements[key] = self._placed_with_pinned(capacity, pinned)
            else:
                self._placements[key] = self._placed(capacity) if ring else self._placed_in_order()
        return self._placements[key]

    def _placed_in_order(self) -> Placement:
        n_slots = self._filled
        new = self._layout
        assert new.positions_BT is not None
        plain = self._uniform
        slots = torch.arange(n_slots, device=self.length_B.device)[None]
        span = Span(
            query_positions=new.positions_BT,
            key_positions=slots if plain else self._position_BL[:, :n_slots],
            query_document=new.document_BT,
            key_document=None if self._document_BL is None else self._document_BL[:, :n_slots],
            key_valid=None if plain else slots < self.length_B[:, None],
            whole=True,
            aligned=plain and self._before == 0,
            newest=plain and new.positions_BT.shape[1] == 1,
        )
        return Placement(self._ordinals_BT, self._before if plain else None, False, n_slots, span)

    def _placed(self, capacity: int) -> Placement:
        new = self._layout
        assert new.positions_BT is not None
        n_tokens = self._ordinals_BT.shape[1]
        before = n_tokens > 1
        kept = (self._ordinals_BT >= self.length_B[:, None] - capacity) & (self._ordinals_BT < self.max_length)
        slots_BT = torch.where(kept, self._ordinals_BT % capacity, capacity)
        n_slots = min(capacity, self._before if before else self._filled)
        # After `last + 1` tokens, slot s holds the latest ordinal that is s modulo the capacity.
        length = (
            self.length_B - (new.valid_BT.sum(1) if new.valid_BT is not None else n_tokens) if before else self.length_B
        )
        last = (length - 1)[:, None]
        ordinals = last - (last - torch.arange(n_slots, device=last.device)[None]) % capacity
        valid = ordinals >= 0
        ordinals = ordinals.clamp(min=0)
        positions = self._position_BL.gather(1, ordinals)
        document = None if self._document_BL is None else self._document_BL.gather(1, ordinals)
        if before:
            new_valid = (
                new.valid_BT if new.valid_BT is not None else torch.ones_like(self._ordinals_BT, dtype=torch.bool)
            )
            positions = torch.cat([positions, new.positions_BT.expand_as(self._ordinals_BT)], 1)
            valid = torch.cat([valid, new_valid], 1)
            if document is not None:
                assert new.document_BT is not None
                document = torch.cat([document, new.document_BT], 1)
        plain_prefill = self._uniform and self._before == 0
        span = Span(
            query_positions=new.positions_BT,
            key_positions=new.positions_BT if plain_prefill else positions,
            query_document=new.document_BT,
            key_document=document,
            key_valid=None if self._uniform else valid,
            whole=True,
            aligned=plain_prefill,
            newest=self._uniform and n_tokens == 1,
        )
        first = self._before % capacity if self._uniform and not before else None
        return Placement(slots_BT, first, before, n_slots, span)

    def _placed_with_pinned(self, capacity: int, pinned: int) -> Placement:
        """In two rings, one behind the other: of tokens at pinned positions, and of all others.

        Of the first, `pinned` are the current document's, and `max_rewind` more may be needed again: so many tokens
        can be taken back, and with them the start of a document.
        """
        first, others = self._pinned[capacity, pinned]
        new = self._layout
        assert new.positions_BT is not None
        n_tokens = self._ordinals_BT.shape[1]
        before, plain = n_tokens > 1, self._uniform
        held = torch.cat([first.ordinals_BC, others.ordinals_BC], dim=1) if before else None
        there = self._ordinals_BT < self.max_length
        early = (new.positions_BT < pinned).expand_as(there)
        among_first = first.take(self._ordinals_BT, there & early)
        among_others = others.take(self._ordinals_BT, there & ~early)
        slots = torch.where(among_others >= 0, first.size + among_others, capacity)
        slots = torch.where(among_first >= 0, among_first, slots)
        if held is None:
            held = torch.cat([first.ordinals_BC, others.ordinals_BC], dim=1)

        in_order = plain and self.max_rewind == 0  # slots are then filled one after the other, and none is ever empty
        n_slots = min(capacity, self._before if before else self._filled) if in_order else capacity
        ordinals = held[:, :n_slots]
        valid = ordinals >= 0
        positions = self._position_BL.gather(1, ordinals.clamp(min=0))
        document = None if self._document_BL is None else self._document_BL.gather(1, ordinals.clamp(min=0))
        if before:
            positions = torch.cat([positions, new.positions_BT.expand_as(there)], 1)
            valid = torch.cat([valid, there], 1)
            if document is not None:
                assert new.document_BT is not None
                document = torch.cat([document, new.document_BT], 1)
        plain_prefill = plain and self._before == 0
        span = Span(
            query_positions=new.positions_BT,
            key_positions=new.positions_BT if plain_prefill else positions,
            query_document=new.document_BT,
            key_document=document,
            key_valid=None if in_order or plain_prefill else valid,
            whole=True,
            aligned=plain_prefill,
            newest=plain and n_tokens == 1,
        )
        return Placement(slots, None, before, n_slots, span)

    def take_source(self) -> None:
        """Know that every row has been given a source of its own."""
        self.sourced = True
        self._source_B = torch.arange(self.batch_size, device=self.length_B.device)

    def select(self, rows: Tensor | Sequence[int]) -> None:
        """Keep these rows of the batch, in this order; a row may be named several times."""
        index = torch.as_tensor(rows, dtype=torch.int64, device=self.length_B.device)
        self.length_B, self._furthest_B = self.length_B[index], self._furthest_B[index]
        self._position_BL = self._position_BL[index]
        self._document_BL = None if self._document_BL is None else self._document_BL[index]
        # When the longest or the odd rows leave, those that stay have less to look over.
        self._filled = int(self.length_B.max()) if len(index) else 0
        columns = torch.arange(self._filled, device=index.device)
        self._uniform = (
            self._document_BL is None
            and bool((self.length_B == self._filled).all())
            and bool((self._position_BL[:, : self._filled] == columns).all())
        )
        for both in self._pinned.values():
            for slots in both:
                slots.select(index)
        # Beams of one prompt change places, and each finds the same source where it comes to stand.
        before, self._source_B = self._source_B, self._source_B[index]
        same_sources = torch.equal(before, self._source_B)
        self._each(lambda memory: None if memory.of_source and same_sources else memory.select(index))

    def rewind(self, n_tokens: int | Tensor) -> None:
        """Forget the last `n_tokens` tokens of every row, or of each row its own number [B].

        Raises:
            ValueError: when a row would go back more than `max_rewind` tokens from the furthest that it has been, as
                ring buffers hold no more, or by more tokens than it holds.
        """
        steps = torch.as_tensor(n_tokens, device=self.length_B.device).expand_as(self.length_B)
        most, least = int(steps.max()), int(steps.min())
        furthest = torch.maximum(self._furthest_B, self.length_B)
        back = int((furthest - self.length_B + steps).max())
        if least < 0 or back > self.max_rewind:
            again = f", and would be {back} tokens back with what was taken back before" if back > most else ""
            raise ValueError(
                f"rewind({most if least >= 0 else least}): the state takes back 0 to {self.max_rewind} tokens{again}; "
                "make it with a larger max_rewind."
            )
        if bool((steps > self.length_B).any()):
            raise ValueError(f"rewind({most}): a row holds only {int(self.length_B.min())} tokens.")
        self.length_B, self._furthest_B = self.length_B - steps, furthest
        if isinstance(n_tokens, int):
            self._filled -= n_tokens
        else:
            self._uniform = False
        for both in self._pinned.values():
            for slots in both:
                slots.rewind(self.length_B)
        self._each(lambda memory: memory.rewind(steps))

    def _each(self, action: Callable[[Memory], None]) -> None:
        for layer in self.layers:
            for memory in layer:
                if memory is not None:
                    action(memory)
