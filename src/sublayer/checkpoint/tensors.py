"""Safetensors files that can be trusted: no pickle, shapes checked before allocation, contents checked by digest."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sublayer.errors import CheckpointError
from sublayer.files import written_aside

DIGEST = "sublayer_sha256"
"""The metadata key of the digest of a file's tensors."""

ALIGNMENT = 64
"""Bytes to a multiple of which PyTorch's own tensors are placed in memory."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors` and their digest to `path`, which is replaced at once and in whole.

    Raises:
        RunError: when the disk is full or the file cannot be written.
    """
    contiguous = separate({name: tensor.detach().cpu() for name, tensor in tensors.items()})
    with written_aside(path) as aside:
        try:
            save_file(contiguous, aside, metadata={"format": "pt", DIGEST: digest(contiguous)})
        except SafetensorError as error:
            raise OSError(_errno(error), str(error)) from error
        _order_metadata(aside)


def read_tensors(path: Path, expected: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU.

    Args:
        path: a safetensors file.
        expected: names and shapes that the file must hold, checked before anything is read.

    Raises:
        CheckpointError: when the file is missing, truncated, changed since it was written, or holds other tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}; name a directory that `sublayer train` wrote.")
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            if expected is not None:
                _check_shapes(path, {name: tuple(file.get_slice(name).get_shape()) for name in names}, expected)
            tensors = {name: _aligned(file.get_tensor(name)) for name in names}
            written = (file.metadata() or {}).get(DIGEST)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); copy it again from where it was whole.") from None
    if written is not None and written != digest(tensors):
        raise CheckpointError(
            f"{path} was changed after it was written (its digest differs); copy it again from its origin."
        )
    return tensors


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor where PyTorch would have put it.

    In the file it can stand anywhere, and sums over numbers that begin elsewhere may be taken in another order: loaded
    weights would then give logits that differ in the last bit.
    """
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()


def separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors that share no memory, as the format wants them; copied only where that is needed."""
    separated, storages = {}, set()
    for name, tensor in tensors.items():
        storage = (tensor.device, tensor.untyped_storage().data_ptr())
        separated[name] = tensor.clone(memory_format=torch.contiguous_format) if storage in storages else tensor
        separated[name] = separated[name].contiguous()
        storages.add(storage)
    return separated


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def _order_metadata(path: Path) -> None:
    """Sort a file's metadata: the library keeps them in a hash map, whose order is chance, and the same tensors shall
    make the same file."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= size
        file.seek(8)
        file.write(text.ljust(size))


def _check_shapes(path: Path, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    for name, shape in expected.items():
        if name not in found:
            raise CheckpointError(
                f"{path} lacks the tensor '{name}' that its config asks for; it belongs to another model."
            )
        if found[name] != tuple(shape):
            raise CheckpointError(
                f"{path}: '{name}' has shape {list(found[name])} where its config asks for {list(shape)}; "
                "it belongs to another model."
            )
    extra = sorted(set(found) - set(expected))
    if extra:
        raise CheckpointError(f"{path} holds a tensor '{extra[0]}' that its config has no place for.")


def _errno(error: SafetensorError) -> int:
    """The operating system's number in the library's message, as in "No space left on device (os error 28)"."""
    text = str(error)
    number = text.rpartition("os error ")[2].rstrip(") }")
    return int(number) if number.isdigit() else 5
