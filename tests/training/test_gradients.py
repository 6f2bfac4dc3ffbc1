"""Gradients of ranks that train one model together, with FSDP2 as well."""

import functools
from pathlib import Path

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from sublayer.model import Transformer
from sublayer.model.experts.parallel import divided
from sublayer.training.gradients import gradient_norm, reduce_gradients
from tests.model.experts.one_and_several import UNEVEN, batch, compare, config, recomputing, to_first_experts
from tests.ranks import on_ranks


class Three(nn.Module):
    """Parameters that all ranks use, that the second one uses, that none uses, and that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.all = nn.Parameter(torch.ones(3))
        self.second = nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
        self.none = nn.Parameter(torch.ones(1))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)


def added(rank: int) -> None:
    model = Three()
    loss = (model.all * (rank + 1)).sum() * model.frozen
    if rank == 1:
        loss = loss + model.second.sum() * 5
    loss.backward()
    reduce_gradients(model)
    assert model.all.grad.tolist() == [3.0, 3.0, 3.0]
    assert model.second.grad.tolist() == [[5.0, 5.0], [5.0, 5.0]]
    assert model.none.grad is None and model.frozen.grad is None
    torch.testing.assert_close(gradient_norm(model), torch.tensor((3 * 9 + 4 * 25) ** 0.5, dtype=torch.float64))


def test_gradients_of_ranks_are_summed(tmp_path: Path) -> None:
    on_ranks(2, added, tmp_path)


def sharded(model: Transformer, recompute: bool = False) -> Transformer:
    """By FSDP2, without the experts that are divided already; gradients summed."""
    if recompute:
        recomputing(model)
    ignored = set(divided(model).values())
    for block in model.blocks:
        fully_shard(block, ignored_params=ignored)
    fully_shard(model, ignored_params=ignored)
    for module in (*model.blocks, model):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo has no other
    assert isinstance(model.embedding.weight, DTensor)
    return model


def by_fsdp(rank: int) -> None:
    for divide in (False, True):
        for recompute in (False, True):
            change = functools.partial(sharded, recompute=recompute)
            compare(rank, Transformer(config()), UNEVEN, *batch(5), change=change, divide=divide)
    compare(rank, to_first_experts(Transformer(config())), UNEVEN, *batch(5), change=sharded)


def test_fsdp2(tmp_path: Path) -> None:
    """Losses, counts and gradients are a single process's, with all experts on each rank and divided."""
    on_ranks(2, by_fsdp, tmp_path)
