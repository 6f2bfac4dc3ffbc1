"""Kernels: ways to compute the same attention."""

from typing import Literal

from torch import Tensor

from sublayer.model.attention.kernel.base import Attended, Attention, Kernel
from sublayer.model.attention.kernel.reference import Reference
from sublayer.model.attention.kernel.sdpa import Sdpa

KernelName = Literal["auto", "reference", "sdpa"]

KERNELS: dict[str, Kernel] = {kernel.name: kernel for kernel in (Sdpa(), Reference())}
"""In the order in which `auto` tries them."""


def choose(name: KernelName, call: Attention) -> Kernel:
    """The kernel for a call: the one named, or for `auto` the first that carries it.

    A call that wants weights is served by `reference` whatever was named, as no fused kernel has them.
    """
    if name != "auto" and not call.want_weights:
        return KERNELS[name]
    return next(kernel for kernel in KERNELS.values() if kernel.refuses(call) is None)


def attend(q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, call: Attention, kernel: KernelName = "auto") -> Attended:
    """Attention by the named kernel."""
    return choose(kernel, call)(q_BHTK, k_BGSK, v_BGSK, call)


__all__ = ["KERNELS", "Attended", "Attention", "Kernel", "KernelName", "attend", "choose"]
