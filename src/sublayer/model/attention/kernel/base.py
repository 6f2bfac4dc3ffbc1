"""One call of attention, and what a kernel that computes it must say of itself."""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from sublayer.model.attention.pattern.base import Pattern
from sublayer.model.attention.score import ScoreChange
from sublayer.model.layout import Span

KernelName = Literal["auto", "reference", "sdpa", "dense"]


@dataclass(frozen=True)
class Attention:
    """Everything about a call but its queries, keys and values.

    Attributes:
        pattern: which keys a query may see.
        span: where queries and keys stand.
        scale: factor of the query-key products.
        soft_cap: c of c·tanh(score/c), taken of the scaled products; None for the products themselves.
        score_change: what is added then.
        sink_H: a logit for each head that joins the softmax and has no value: weights then sum to less than 1.
        dropout: probability of dropping an attention weight.
        want_weights: return the weights as well.
    """

    pattern: Pattern
    span: Span
    scale: float
    score_change: ScoreChange | None = None
    soft_cap: float | None = None
    sink_H: Tensor | None = None
    dropout: float = 0.0
    want_weights: bool = False


@dataclass(frozen=True)
class Attended:
    """What a kernel returns.

    Attributes:
        out_BHTK: the output.
        weights_BHTS: where asked for, the weights, before dropout.
    """

    out_BHTK: Tensor
    weights_BHTS: Tensor | None = None


@dataclass(frozen=True)
class Example:
    """A call as an attention would make it, to ask kernels about: what they look at, and no numbers.

    Attributes:
        kernel: the name in the config.
        call: without a score change.
        q_BHTK: the queries.
        positioned: the queries and keys that the position is asked about.
    """

    kernel: KernelName
    call: Attention
    q_BHTK: Tensor
    positioned: tuple[Tensor, Tensor]


def is_cpu_step(q_BHTK: Tensor) -> bool:
    """Whether this is the single query of a decoding step on a CPU, in bfloat16."""
    alone = q_BHTK.shape[2] == 1 and not q_BHTK.requires_grad
    return alone and q_BHTK.dtype == torch.bfloat16 and q_BHTK.device.type == "cpu"


class Kernel(Protocol):
    """A way to compute attention.  A query that sees no key gets zeros from every kernel."""

    name: str
    strength: str
    """Why one takes it, in a few words."""

    def refuses(self, call: Attention) -> str | None:
        """Why the kernel cannot carry this call; None when it can."""
        ...

    def passes(self, call: Attention, q_BHTK: Tensor) -> str | None:
        """Why `auto` asks the kernels behind this one for a call that it could carry; None when it takes this one."""
        ...

    def __call__(self, q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, call: Attention) -> Attended:
        """Attend; H is a multiple of G, the number of key/value heads, and head h reads group h // (H / G)."""
        ...
