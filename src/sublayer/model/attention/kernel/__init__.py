"""Kernels: ways to compute the same attention."""

from typing import ClassVar

import torch
from torch import Tensor

from sublayer.model.attention.kernel.base import Attended, Attention, Example, Kernel, KernelName
from sublayer.model.attention.kernel.dense import Dense
from sublayer.model.attention.kernel.reference import Reference
from sublayer.model.attention.kernel.sdpa import Sdpa
from sublayer.model.attention.pattern.base import Everything
from sublayer.model.attention.score import ScoreChange
from sublayer.model.layout import Span

__all__ = [
    "KERNELS",
    "Attended",
    "Attention",
    "Example",
    "Kernel",
    "KernelName",
    "attend",
    "choose",
    "explain",
    "refusal",
]

KERNELS: dict[str, Kernel] = {kernel.name: kernel for kernel in (Dense(), Sdpa(), Reference())}
"""In the order in which `auto` asks them."""


def choose(name: KernelName, call: Attention, q_BHTK: Tensor) -> Kernel:
    """The kernel for a call: the one named, or for `auto` the first that carries the call and is fast for it.

    Where none of the fast ones says that it is, the first that carries the call.  A call that wants weights goes to one
    that has them, whatever was named.
    """
    if name != "auto" and not call.want_weights:
        return KERNELS[name]
    able = [kernel for kernel in KERNELS.values() if kernel.refuses(call) is None]
    fast = (kernel for kernel in able[:-1] if kernel.passes(call, q_BHTK) is None)
    return next(fast, able[0])


def explain(name: KernelName, call: Attention, q_BHTK: Tensor) -> tuple[Kernel, str]:
    """The kernel that `choose` gives, and why, in words."""
    chosen = choose(name, call, q_BHTK)
    if chosen.name == name:
        return chosen, "named in the config"
    beaten = chosen.passes(call, q_BHTK) is not None  # taken all the same, as what is faster refuses
    why = [] if beaten else [chosen.strength]
    for kernel in KERNELS.values():
        if kernel is chosen:
            if beaten:
                continue
            break
        reason = kernel.refuses(call) or (None if beaten else kernel.passes(call, q_BHTK))
        if reason is not None:
            why.append(f"{kernel.name} passed over: {reason}")
    return chosen, "; ".join(why)


class _ChangedValues(ScoreChange):
    """Stands for any change that adds to the output; it is asked about, and never computed."""

    changes_values: ClassVar[bool] = True

    def dense(self, span: Span) -> Tensor:
        raise NotImplementedError


def refusal(name: KernelName, soft_cap: float | None = None, changes_values: bool = False) -> str | None:
    """Why a kernel that is named in a config cannot compute such an attention; None when it can."""
    if name == "auto":
        return None
    nowhere = torch.zeros(1, 0, dtype=torch.int64)
    change = _ChangedValues() if changes_values else None
    return KERNELS[name].refuses(Attention(Everything(), Span(nowhere, nowhere), 1.0, change, soft_cap))


def attend(q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, call: Attention, kernel: KernelName = "auto") -> Attended:
    """Attention by the named kernel."""
    return choose(kernel, call, q_BHTK)(q_BHTK, k_BGSK, v_BGSK, call)


__all__ = ["KERNELS", "Attended", "Attention", "Kernel", "KernelName", "attend", "choose", "explain"]
