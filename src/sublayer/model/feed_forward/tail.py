"""What a convolution over tokens remembers while decoding: its inputs at the last tokens of each row.

Shapes: B batch, T new tokens, C tokens kept, S kept and new tokens, F channels.
"""

from typing import ClassVar

import torch
from torch import Tensor

from sublayer.model.layout import Layout
from sublayer.model.state import Memory


class Tail(Memory):
    """The inputs at the last tokens, the newest at the end; zeros where a row has had fewer.

    It is as large in a short text as in a long one.

    Args:
        reach: how many tokens before a token its output depends on.
        max_rewind: how many more are kept, for `rewind`.
    """

    holds: ClassVar[str] = "inputs of the convolution"

    def __init__(
        self, reach: int, max_rewind: int, batch_size: int, width: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.reach = reach
        self.capacity = reach + max_rewind
        self.kept_BCF = torch.zeros(batch_size, reach + max_rewind, width, device=device, dtype=dtype)
        # As in the state: while no documents are told, all tokens are of number 0.
        self.document_BC: Tensor | None = None

    @property
    def token_bytes(self) -> int:
        return self.kept_BCF.shape[2] * self.kept_BCF.itemsize

    def extend(self, x_BTF: Tensor, layout: Layout) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Take in the inputs at new tokens.

        Returns:
            The last `reach` tokens before, and behind them the new ones without gaps, [B, reach + T, F]; their
            documents, where any were told; and where padding was given, which of the new ones stands in which column,
            [B, T].
        """
        if layout.document_BT is not None and self.document_BC is None:
            self.document_BC = layout.document_BT.new_zeros(self.kept_BCF.shape[:2])
        document_BT, place_BT, count_B1 = layout.document_BT, None, None
        if layout.valid_BT is not None:
            place_BT = (layout.valid_BT.long().cumsum(1) - 1).clamp(min=0)
            count_B1 = layout.valid_BT.sum(1, keepdim=True)
            columns_BT = (~layout.valid_BT).long().argsort(dim=1, stable=True)  # of valid tokens first, in their order
            x_BTF = _taken(x_BTF, columns_BT)
            document_BT = None if document_BT is None else document_BT.expand_as(columns_BT).gather(1, columns_BT)
        all_BSF = torch.cat([self.kept_BCF.to(x_BTF.dtype), x_BTF], dim=1)
        self.kept_BCF = self._last(all_BSF, count_B1).to(self.kept_BCF.dtype)
        begin = self.kept_BCF.shape[1] - self.reach
        if self.document_BC is None or document_BT is None:
            return all_BSF[:, begin:], None, place_BT
        document_BS = torch.cat([self.document_BC, document_BT], dim=1)
        self.document_BC = self._last(document_BS, count_B1)
        return all_BSF[:, begin:], document_BS[:, begin:], place_BT

    def _last(self, values_BS: Tensor, count_B1: Tensor | None) -> Tensor:
        """The last kept values of each row, of which `count` are new; left out, all."""
        n_kept = self.kept_BCF.shape[1]
        if count_B1 is None:
            return values_BS[:, values_BS.shape[1] - n_kept :].contiguous()
        return _taken(values_BS, count_B1 + torch.arange(n_kept, device=values_BS.device))

    def select(self, rows: Tensor) -> None:
        self.kept_BCF = self.kept_BCF[rows]
        self.document_BC = None if self.document_BC is None else self.document_BC[rows]

    def rewind(self, n_tokens: Tensor) -> None:
        index_BC = torch.arange(self.kept_BCF.shape[1], device=n_tokens.device) - n_tokens[:, None]
        there_BC, index_BC = index_BC >= 0, index_BC.clamp(min=0)
        self.kept_BCF = _taken(self.kept_BCF, index_BC) * there_BC[..., None]
        if self.document_BC is not None:
            self.document_BC = _taken(self.document_BC, index_BC)


def _taken(values_BS: Tensor, index_BT: Tensor) -> Tensor:
    """The values [B, S] or [B, S, F] at these places of each row."""
    if values_BS.dim() == 2:
        return values_BS.gather(1, index_BT)
    return values_BS.gather(1, index_BT[..., None].expand(-1, -1, values_BS.shape[2]))
