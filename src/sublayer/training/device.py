"""Where a model runs, and in which precision."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from sublayer.errors import ConfigError

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
DtypeName = Literal["auto", "float32", "bfloat16"]


def choose_device(name: DeviceName) -> torch.device:
    """The device of that name; `auto` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        ConfigError: when the machine has no such device.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in present.items() if there))
    if not present[name]:
        there = ", ".join(kind for kind, is_there in present.items() if is_there)
        raise ConfigError(f"device: this machine has no '{name}'; choose auto or one of: {there}.")
    return torch.device(name)


def choose_dtype(name: DtypeName, device: torch.device) -> torch.dtype:
    """The dtype of matrix products; `auto` takes bfloat16 where the hardware computes in it."""
    if name != "auto":
        return torch.float32 if name == "float32" else torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu":
        capability = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        fast = any(capability.get(name, False) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))
        return torch.bfloat16 if fast else torch.float32
    return torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Mixed precision: parameters and sums stay in float32, products run in `dtype`."""
    if dtype == torch.float32:
        return nullcontext()
    # Without the cache of cast weights: each is used once a forward pass, and threads must not share graphs.
    return torch.autocast(device.type, dtype=dtype, cache_enabled=False)
