"""Kernels: ways to compute the same attention."""

from typing import Literal

from torch import Tensor

from sublayer.model.attention.kernel.base import Attended, Attention, Kernel
from sublayer.model.attention.kernel.dense import Dense
from sublayer.model.attention.kernel.reference import Reference
from sublayer.model.attention.kernel.sdpa import Sdpa

KernelName = Literal["auto", "reference", "sdpa", "dense"]

KERNELS: dict[str, Kernel] = {kernel.name: kernel for kernel in (Dense(), Sdpa(), Reference())}
"""In the order in which `auto` asks them."""


def choose(name: KernelName, call: Attention, q_BHTK: Tensor) -> Kernel:
    """The kernel for a call: the one named, or for `auto` the first that carries the call and is fast for it.

    A call that wants weights goes to one that has them, whatever was named.
    """
    if name != "auto" and not call.want_weights:
        return KERNELS[name]
    asked = KERNELS.values()
    return next(each for each in asked if each.refuses(call) is None and each.passes(call, q_BHTK) is None)


def explain(name: KernelName, call: Attention, q_BHTK: Tensor) -> tuple[Kernel, str]:
    """The kernel that `choose` gives, and why, in words."""
    chosen = choose(name, call, q_BHTK)
    if chosen.name == name:
        return chosen, "named in the config"
    why = [chosen.strength]
    for kernel in KERNELS.values():
        if kernel is chosen:
            break
        reason = kernel.refuses(call) or kernel.passes(call, q_BHTK)
        why.append(f"{kernel.name} passed over: {reason}")
    return chosen, "; ".join(why)


def attend(q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, call: Attention, kernel: KernelName = "auto") -> Attended:
    """Attention by the named kernel."""
    return choose(kernel, call, q_BHTK)(q_BHTK, k_BGSK, v_BGSK, call)


__all__ = ["KERNELS", "Attended", "Attention", "Kernel", "KernelName", "attend", "choose", "explain"]
