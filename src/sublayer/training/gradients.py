"""The gradients of ranks that train one model together, and their norm.

A rank's loss is summed over its own targets and divided by the number of all ranks' targets, as `Passes` does it, so
that gradients are summed over ranks and never averaged.  Every rank calls these functions, also one without tokens.
"""

from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sublayer.model.experts.parallel import ParallelBank, divided
from sublayer.model.precision import at_least_float32

BUCKET_BYTES = 32 * 2**20
"""Gradients are summed so many bytes at a time: few collectives, and little memory beside the gradients."""


def reduce_gradients(
    model: nn.Module, group: dist.ProcessGroup | None = None, replicas: dist.ProcessGroup | None = None
) -> None:
    """Sum the gradients over ranks, in place.

    Those of experts that are divided among the ranks are complete already, since the tokens came to them.  What
    `fully_shard` divided is passed over, as it sums these gradients itself (with a divide factor of 1).  A parameter
    that has a gradient on one rank gets one on all.

    Args:
        model: after the backward pass.
        group: all ranks that train it; left out, all there are.
        replicas: the ranks that hold the same experts as this one, where experts are divided among fewer ranks than
            train the model.

    Raises:
        ValueError: when there are such ranks and they are not given.
    """
    experts = divided(model)
    n_ranks, n_replicas = dist.get_world_size(group), dist.get_world_size(replicas) if replicas is not None else 1
    for module in model.modules():
        if isinstance(module, ParallelBank) and module.ranks.size * n_replicas != n_ranks:
            raise ValueError(
                f"replicas: {n_ranks} ranks train the model and its experts are divided among {module.ranks.size}; "
                f"give the group of the {n_ranks // module.ranks.size} ranks with the same experts."
            )
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    _add_up([parameter for name, parameter in trained.items() if name not in experts], group)
    if replicas is not None:
        _add_up([parameter for name, parameter in trained.items() if name in experts], replicas)


def gradient_norm(model: nn.Module) -> Tensor:
    """The norm of all gradients together, those of experts on other ranks among them; the same on every rank.

    After `reduce_gradients`; for `torch.nn.utils.clip_grads_with_norm_`.
    """
    experts = divided(model)
    here: list[Tensor] = []
    whole: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            (here if name in experts else whole).append(parameter.grad)
    square = _square(whole, next(model.parameters()).device)
    bank = next((module for module in model.modules() if isinstance(module, ParallelBank)), None)
    if bank is not None:
        share = _square(here, square.device)
        dist.all_reduce(share, group=bank.ranks.group)
        square = square + share
    return square.sqrt()


def _add_up(parameters: Iterable[nn.Parameter], group: dist.ProcessGroup | None) -> None:
    parameters = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
    if not parameters:
        return
    # One that no rank used has no gradient, and an optimizer leaves it as it is.
    used = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32)
    used = used.to(parameters[0].device)
    dist.all_reduce(used, group=group)
    alike: dict[torch.dtype, list[Tensor]] = {}
    for parameter, n_ranks in zip(parameters, used.tolist(), strict=True):
        if n_ranks:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            alike.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for gradients in alike.values():
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat, group=group)
            parts = torch.split(flat, [gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view(gradient.shape))


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        n_bytes = tensor.numel() * tensor.element_size()
        if bucket and size + n_bytes > BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += n_bytes
    if bucket:
        yield bucket


def _square(gradients: list[Tensor], device: torch.device) -> Tensor:
    """The squared norm of all of them together."""
    squares = [torch.zeros((), device=device)]
    for divided_by_fsdp in (True, False):
        part = [gradient for gradient in gradients if isinstance(gradient, DTensor) == divided_by_fsdp]
        if part:
            norm = torch.nn.utils.get_total_norm(part)
            norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
            squares.append(at_least_float32(norm).square())
    return sum(squares[1:], squares[0])
