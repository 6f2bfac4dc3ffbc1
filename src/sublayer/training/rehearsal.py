"""Computing without numbers: tensors that have a shape, a dtype and a device, but no memory.

What is computed under `Rehearsal` runs the very code that a real step runs, operation by operation, autograd and
autocast included, while only the sizes of tensors are kept track of.  So the memory of a step is known without it.
"""

import weakref
from collections.abc import Mapping
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


class Hollow(Tensor):
    """A tensor that claims to be on a device; its shape is that of a ghost on the meta device."""

    ghost: Tensor

    @staticmethod
    def __new__(cls, ghost: Tensor, device: torch.device) -> "Hollow":
        hollow = Tensor._make_wrapper_subclass(
            cls,
            ghost.shape,
            strides=ghost.stride(),
            storage_offset=ghost.storage_offset(),
            dtype=ghost.dtype,
            device=device,
        )
        hollow.ghost = ghost
        return hollow

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise RuntimeError(f"{func} of a hollow tensor was called outside of a rehearsal")


class Rehearsal(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, operations give hollow tensors.

    Args:
        device: that they claim to be on.
        small: bytes up to which a tensor is counted as small as well.

    Attributes:
        held: bytes of all tensors that are alive.
        held_small: bytes of the small ones.
        peak, peak_small: the most that each has been since `mark`.
        draws: whether an operation has drawn random numbers.
    """

    def __init__(self, device: torch.device, small: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.small = small
        self.held = self.held_small = 0
        self.peak = self.peak_small = 0
        self.draws = False
        self._known: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and to ask would import the compiler

    def mark(self) -> None:
        """Forget the peaks."""
        self.peak, self.peak_small = self.held, self.held_small

    def hollow(self, ghost: Tensor) -> Hollow:
        """A tensor of the meta device as one that claims to be on this one."""
        storage = ghost.untyped_storage()
        key, n_bytes = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self._count(n_bytes)
            weakref.finalize(storage, self._freed, key, n_bytes)
        return Hollow(ghost, self.device)

    def inhabit(self, model: nn.Module) -> None:
        """Make the parameters and buffers of a model on the meta device hollow; to be done before entering."""
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    hollow = self.hollow(parameter.detach()).requires_grad_(parameter.requires_grad)
                    module._parameters[name] = hollow  # type: ignore[assignment]
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = self.hollow(buffer)

    def _freed(self, key: int, n_bytes: int) -> None:
        self._known.discard(key)
        self._count(-n_bytes)

    def _count(self, n_bytes: int) -> None:
        self.held += n_bytes
        self.peak = max(self.peak, self.held)
        if abs(n_bytes) <= self.small:
            self.held_small += n_bytes
            self.peak_small = max(self.peak_small, self.held_small)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given: dict[int, Hollow] = {}

        def inward(value: Any) -> Any:
            if isinstance(value, Hollow):
                given[id(value.ghost)] = value
                return value.ghost
            return value.to("meta") if isinstance(value, Tensor) else value

        def outward(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if id(value) in given:  # an operation in place returns what it was given
                return given[id(value)]
            return self.hollow(value)

        # Fused attention is marked as well, though on a CPU it is not taken when there is something to be drawn.
        self.draws |= torch.Tag.nondeterministic_seeded in func.tags and "scaled_dot_product" not in func.name()
        arguments, options = pytree.tree_map(inward, (args, dict(kwargs or {})))
        # An operation that makes a tensor from nothing would make a real one.
        makes = not given and any(argument.name == "device" for argument in func._schema.arguments)
        place = {"device": torch.device("meta")} if makes or "device" in options else {}
        return pytree.tree_map(outward, func(*arguments, **options | place))
