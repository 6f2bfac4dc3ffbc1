"""Experts whose matrices are packed for decoding on a CPU.

Shapes: M rows sorted by expert, E experts, D d_model, F d_ff.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sublayer.model.packed import Packed, PackedMatrix

if TYPE_CHECKING:
    from sublayer.model.experts.bank import Bank


class PackedBank(Packed):
    """A bank that reads only the matrices of experts that have rows, gate and up as one.

    Args:
        bank: lends its matrices, and is without them until they are given back.
    """

    def __init__(self, bank: "Bank") -> None:
        super().__init__()
        self._bank = (bank,)  # in a tuple, so that it is no submodule
        self._inner = [name for name in ("gate", "up") if getattr(bank, name) is not None]
        self._into = [self._matrix(self._inner, expert) for expert in range(bank.n_experts)]
        self._out_of = [self._matrix(["down"], expert) for expert in range(bank.n_experts)]
        self.n_parameters = sum(parameter.numel() for parameter in bank.parameters())
        for name in (*self._inner, "down"):
            parameter = getattr(bank, name)
            parameter.data = parameter.data.new_empty(0)
        self.train(bank.training)

    def _matrix(self, names: list[str], expert: int) -> PackedMatrix:
        (bank,) = self._bank
        biases = [getattr(bank, f"{name}_bias") for name in names]
        return PackedMatrix(
            [getattr(bank, name)[expert] for name in names], [None if bias is None else bias[expert] for bias in biases]
        )

    def forward(self, x_MD: Tensor, count_E: Tensor) -> Tensor:
        """As of the bank."""
        (bank,) = self._bank
        parts = []
        begin = 0
        for into, out_of, count in zip(self._into, self._out_of, count_E.tolist(), strict=True):
            if count:
                inner = into.parts(x_MD[begin : begin + count])
                parts.append(out_of(bank.hidden(inner[-1], inner[0] if bank.gated else None, self.training)))
                begin += count
        return torch.cat(parts) if parts else x_MD

    def unpacked(self) -> "Bank":
        (bank,) = self._bank
        for name in (*self._inner, "down"):
            getattr(bank, name).data = self._weights(name)
        return bank.train(self.training)

    def _weights(self, name: str) -> Tensor:
        matrices, number = (self._out_of, 0) if name == "down" else (self._into, self._inner.index(name))
        with torch.inference_mode(False):  # else they could not be trained again
            return torch.stack([matrix.weight(number) for matrix in matrices])

    def _save_to_state_dict(self, destination, prefix, keep_vars):  # type: ignore[no-untyped-def]
        (bank,) = self._bank
        for name, parameter in bank.named_parameters():
            packed = name == "down" or name in self._inner
            destination[f"{prefix}{name}"] = self._weights(name) if packed else parameter.detach()
