"""Rows from rank to rank, and how many bytes that moves.

Shapes: M rows, D d_model.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sublayer.model.config import ModelConfig
from sublayer.model.experts.mixture import ExpertsConfig


@dataclass
class Traffic:
    """What a rank sent to the others while it was counted.

    Attributes:
        collectives: exchanges that it took part in, those of counts left out.
        rows: rows that went to another rank.
        bytes: of these rows.
        count_bytes: of the numbers of rows, which go ahead of the rows in each forward pass.
    """

    collectives: int = 0
    rows: int = 0
    bytes: int = 0
    count_bytes: int = 0


_counting: list[Traffic] = []
"""Not bound to a thread: a GPU's backward pass runs in one of its own."""


@contextmanager
def counted_traffic() -> Iterator[Traffic]:
    """Counts what this rank sends to others inside of the block, forward and backward."""
    traffic = Traffic()
    _counting.append(traffic)
    try:
        yield traffic
    finally:
        _counting[:] = [each for each in _counting if each is not traffic]


def moved_bytes(config: ModelConfig, n_ranks: int, itemsize: int = 4, training: bool = True) -> float:
    """Bytes that experts on several ranks move between them for a token, by formula.

    In each layer with experts, k · D · itemsize · (n − 1) / n to the experts and as many back, with n ranks of which
    each computes as many assignments; and the same again for the gradients.  A layer whose router makes mixtures
    instead of choosing moves its mixtures, whose number does not follow from that of the tokens, and is left out.

    Args:
        config: of the model; both stacks of an encoder_decoder count, as if their sequences were as long.
        n_ranks: among which the experts are divided.
        itemsize: bytes of a number.
        training: forward and backward, not forward alone.
    """
    ways = 4 if training else 2
    chosen = sum(
        layer.feed_forward.chosen for layer in config.all_layers() if isinstance(layer.feed_forward, ExpertsConfig)
    )
    return ways * chosen * config.d_model * itemsize * (n_ranks - 1) / n_ranks


# A compiler breaks its graph at these two: how many rows come is known only when they are counted.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def exchanged_counts(count_E: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, list[int], list[int]]:
    """How many rows each rank has for this rank's experts.

    Args:
        count_E: rows that this rank has for each expert of all ranks (int64).
        group: the ranks.

    Returns:
        The counts [rank, this rank's expert], and how many rows go to each rank, and come from each.
    """
    n_ranks = dist.get_world_size(group)
    count_E = count_E.contiguous()
    received_E = torch.empty_like(count_E)
    dist.all_to_all_single(received_E, count_E, group=group)
    for traffic in _counting:
        traffic.count_bytes += count_E.numel() * count_E.element_size() * (n_ranks - 1) // n_ranks
    sent, received = torch.stack([count_E, received_E]).view(2, n_ranks, -1).sum(-1).tolist()
    return received_E.view(n_ranks, -1), sent, received


@torch.compiler.disable  # type: ignore[untyped-decorator]
def exchanged(x_MD: Tensor, sent: Sequence[int], received: Sequence[int], group: dist.ProcessGroup) -> Tensor:
    """The rows that all ranks have for this one, in the order of the ranks; their gradients go the way back.

    Every rank of the group joins, forward and backward, also one that neither sends nor receives a row.

    Args:
        x_MD: rows, in the order of the ranks that they go to.
        sent, received: how many go to each rank, and come from each.
        group: the ranks.
    """
    y_MD: Tensor = _Exchange.apply(x_MD, sent, received, group)  # type: ignore[no-untyped-call]
    return y_MD


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_MD: Tensor, sent: Sequence[int], received: Sequence[int], group: dist.ProcessGroup
    ) -> Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        y_MD = x_MD.new_empty(sum(received), *x_MD.shape[1:])
        dist.all_to_all_single(y_MD, x_MD.contiguous(), list(received), list(sent), group=group)
        rows = sum(sent) - sent[dist.get_rank(group)]
        for traffic in _counting:
            traffic.collectives += 1
            traffic.rows += rows
            traffic.bytes += rows * x_MD[:1].numel() * x_MD.element_size() if rows else 0
        return y_MD

    @staticmethod
    def backward(ctx: Any, grad_MD: Tensor) -> tuple[Tensor | None, ...]:
        return _Exchange.apply(grad_MD, ctx.received, ctx.sent, ctx.group), None, None, None  # type: ignore[no-untyped-call]
