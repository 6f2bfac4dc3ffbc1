"""A ring of slots for some of the tokens of each row, and which of them stand in it.

Shapes: B batch, T new tokens, C slots.
"""

import torch
from torch import Tensor


class Slots:
    """The last `size` tokens taken, by row.

    Tokens are known by their ordinals: 0 for the first of a row.

    Args:
        size: how many are kept.
    """

    def __init__(self, batch_size: int, size: int, device: torch.device) -> None:
        self.size = size
        self._count_B = torch.zeros(batch_size, dtype=torch.int64, device=device)
        # One slot more than is kept: where tokens that are not kept are noted, and never read.
        self._ordinal_BC = torch.full((batch_size, size + 1), -1, dtype=torch.int64, device=device)

    @property
    def ordinals_BC(self) -> Tensor:
        """Which token stands in each slot; −1 for none."""
        return self._ordinal_BC[:, : self.size]

    @property
    def n_bytes(self) -> int:
        return self._count_B.nbytes + self._ordinal_BC.nbytes

    def take(self, ordinals_BT: Tensor, wanted_BT: Tensor) -> Tensor:
        """Take in new tokens, those that are wanted; returns the slot of each, −1 for one that is not kept."""
        number = self._count_B[:, None] + wanted_BT.long().cumsum(1) - 1
        self._count_B = self._count_B + wanted_BT.sum(1)
        kept = wanted_BT & (number >= self._count_B[:, None] - self.size)
        slots = torch.where(kept, number % self.size, self.size)
        self._ordinal_BC = self._ordinal_BC.scatter(1, slots, ordinals_BT)
        return torch.where(kept, slots, -1)

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order."""
        self._count_B, self._ordinal_BC = self._count_B[rows], self._ordinal_BC[rows]

    def rewind(self, length_B: Tensor) -> None:
        """Forget the tokens from these ordinals on, as if they had never come."""
        gone = self._ordinal_BC >= length_B[:, None]
        self._count_B = self._count_B - gone[:, : self.size].sum(1)
        self._ordinal_BC = self._ordinal_BC.masked_fill(gone, -1)
