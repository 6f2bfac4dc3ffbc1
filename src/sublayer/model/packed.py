"""Matrices laid out for a processor's caches: for decoding on a CPU, where reading the weights is most of the work.

A decoding step multiplies every matrix with a few rows, so its time is that of reading the matrix from memory.  As it
is trained, a matrix is read by PyTorch's product at half the speed that memory allows; in oneDNN's blocked layout,
nearly as fast as memory is.  Matrices that read the same input are joined to one besides.  (benchmarks/decoding.py)

Shapes: I inputs, O outputs.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sublayer.model.sublayer import Sublayer

ROWS = 8
"""The number of rows that the layout is chosen for; one suits all that were tried, from 1 to 512."""

LARGE = 1 << 20
"""Weights from which on a product with a single row is done with four alike: it reads such a matrix faster, while for a
smaller one that takes longer than it saves."""


class PackedMatrix:
    """The weights of linear maps with the same input, one below the other in oneDNN's layout.

    Args:
        weights: [O, I] each; copied.
        biases: [O] each, None where there is none.
    """

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> None:
        self.in_features = weights[0].shape[1]
        self.sizes = [len(weight) for weight in weights]
        self.dtype = weights[0].dtype
        with torch.no_grad():
            joined_OI = torch.cat(list(weights))
            self._packed_OI: Tensor = torch.ops.mkldnn._reorder_linear_weight(joined_OI, ROWS)
            self._bias_O: Tensor | None = None
            if any(bias is not None for bias in biases):
                none = joined_OI.new_zeros(max(self.sizes))
                pairs = zip(biases, self.sizes, strict=True)
                self._bias_O = torch.cat([none[:size] if bias is None else bias for bias, size in pairs])
        self._large = joined_OI.numel() >= LARGE

    def __getstate__(self) -> dict[str, Any]:
        # To be copied or pickled: the layout is a processor's, and not to be looked into.
        return self.__dict__ | {"_packed_OI": self._packed_OI.to_dense()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        self._packed_OI = torch.ops.mkldnn._reorder_linear_weight(state["_packed_OI"], ROWS)

    def parts(self, x: Tensor) -> Sequence[Tensor]:
        """What each map makes of `x`, [..., O] each."""
        y = self(x)
        return (y,) if len(self.sizes) == 1 else torch.split(y, self.sizes, dim=-1)

    def __call__(self, x: Tensor) -> Tensor:
        """x Wᵀ + b, the maps' outputs one behind the other."""
        if x.dtype != self.dtype:
            x = x.to(self.dtype)
        if self._large and x.numel() == self.in_features:
            return self._product(x.reshape(1, -1).expand(4, -1))[0].view(*x.shape[:-1], -1)
        return self._product(x)

    def _product(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, self._packed_OI, self._bias_O, "none", [], "")
        return y

    def weight(self, number: int) -> Tensor:
        """The weight [O, I] of map `number`, exactly as it was."""
        begin = sum(self.sizes[:number])
        with torch.inference_mode(False):  # else it could not be trained again
            weight_OI: Tensor = self._packed_OI.to_dense()[begin : begin + self.sizes[number]]
            return weight_OI.clone()


class Packed(nn.Module):
    """Stands in the place of a module whose weights are packed.

    Attributes:
        n_parameters: how many numbers that module trains, less those that are parameters here.
    """

    n_parameters: int

    def unpacked(self) -> nn.Module:
        """The module in whose place it stands, with the very weights that it had."""
        raise NotImplementedError


class Packable(nn.Module):
    """A module that knows how its weights are packed."""

    def packed(self) -> Packed | None:
        """What takes its place; None where nothing is gained by it."""
        raise NotImplementedError


class PackedLinear(Packed):
    """A linear layer whose weight stands in a packed matrix.

    Args:
        linear: the layer, to be emptied meanwhile.
        matrix: holds its weight.
        number: which of the matrix's layers it is.
    """

    def __init__(self, linear: nn.Linear, matrix: PackedMatrix, number: int) -> None:
        super().__init__()
        self._linear = (linear,)  # in a tuple, so that it is no submodule
        self._matrix, self._number = matrix, number
        self.n_parameters = linear.in_features * linear.out_features
        self.n_parameters += 0 if linear.bias is None else linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        return self._matrix.parts(x)[self._number]

    def unpacked(self) -> nn.Linear:
        (linear,) = self._linear
        linear.weight.data = self._matrix.weight(self._number)
        return linear

    def _save_to_state_dict(self, destination, prefix, keep_vars):  # type: ignore[no-untyped-def]
        (linear,) = self._linear
        destination[f"{prefix}weight"] = self._matrix.weight(self._number)
        if linear.bias is not None:
            destination[f"{prefix}bias"] = linear.bias.detach()


def pack(model: nn.Module) -> None:
    """Pack everything that is faster so.  The weights are held once, not twice."""
    for parent in list(model.modules()):
        together = parent.joined_names() if isinstance(parent, Sublayer) else ()
        if together and all(packable(getattr(parent, name)) for name in together):
            assert isinstance(parent, Sublayer)
            parent.joined = _packed(parent, together).parts
        for name, child in parent.named_children():
            if packable(child):
                _packed(parent, (name,))
            elif isinstance(child, Packable):
                setattr(parent, name, child.packed() or child)


def unpack(model: nn.Module) -> None:
    """Undo `pack`: the same layers and parameters, with the values that they had."""
    for parent in list(model.modules()):
        if isinstance(parent, Sublayer):
            parent.joined = None
        for name, child in parent.named_children():
            if isinstance(child, Packed):
                setattr(parent, name, child.unpacked())


def packable(linear: nn.Module) -> bool:
    """Whether packing a layer makes it faster here: on a CPU, with oneDNN, in float32 or bfloat16."""
    if not isinstance(linear, nn.Linear) or type(linear).forward is not nn.Linear.forward:
        return False
    return gains(linear.weight)


def gains(weight: Tensor) -> bool:
    """Whether products with a matrix are faster when it is packed."""
    if weight.device.type != "cpu" or weight.numel() == 0 or not torch._C._has_mkldnn:
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def _packed(parent: nn.Module, names: tuple[str, ...]) -> PackedMatrix:
    linears = [getattr(parent, name) for name in names]
    matrix = PackedMatrix([linear.weight for linear in linears], [linear.bias for linear in linears])
    for number, (name, linear) in enumerate(zip(names, linears, strict=True)):
        setattr(parent, name, PackedLinear(linear, matrix, number))
        linear.weight.data = linear.weight.data.new_empty(0)  # it is held once
    return matrix
