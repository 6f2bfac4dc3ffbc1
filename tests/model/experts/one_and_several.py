"""A model on one rank, and on several: what is compared.

Shapes: B rows, T tokens, E experts.
"""

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from sublayer.model import Layout, ModelConfig, Report, Transformer
from sublayer.model.experts.mixture import Mixture
from sublayer.model.experts.parallel import distribute_experts, divided, full_state_dict, gathered
from sublayer.training.gradients import gradient_norm, reduce_gradients
from sublayer.training.optimizer.adamw import AdamWConfig
from sublayer.training.optimizer.base import Optimizer
from sublayer.training.ranks import over_ranks

UNEVEN = [slice(0, 4), slice(4, 5)]
"""Rows of a batch of five, for two ranks."""

VOCABULARY, LENGTH = 300, 12
BALANCE = [{"kind": "load", "scope": "global_batch"}, "loss_free"]


def config(stack: str = "decoder", **feed_forward: Any) -> ModelConfig:
    return ModelConfig(
        stack=stack,
        vocab_size=VOCABULARY,
        d_model=16,
        n_layers=2,
        max_length=LENGTH,
        attention={"n_heads": 2},
        feed_forward={
            "kind": "experts",
            "n_experts": 4,
            "expert": {"kind": "gated", "d_ff": 8, "bias": True},
            **(feed_forward or {"balance": BALANCE}),
        },
    )


def batch(n_rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Tokens [B, T] and their targets."""
    tokens = torch.randint(VOCABULARY, (n_rows, LENGTH + 1), generator=torch.Generator().manual_seed(seed))
    return tokens[:, :-1], tokens[:, 1:].contiguous()


def total(losses: Mapping[str, Tensor]) -> Tensor:
    return sum(losses.values(), torch.zeros(()))


class Single:
    """One process with all experts and all tokens."""

    def __init__(self, model: Transformer, tokens: Tensor, targets: Tensor, layout: Layout | None = None) -> None:
        self.model = copy.deepcopy(model).train()
        out = self.model(tokens, layout, targets=targets, want=["logits"])
        out.loss.backward()
        self.logits, self.loss, self.losses, self.counts = out.logits, out.loss, out.losses, out.report.counts
        self.gradients = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        self.norm = torch.nn.utils.get_total_norm(self.gradients.values())


def compare(
    rank: int,
    model: Transformer,
    rows: list[slice],
    tokens: Tensor,
    targets: Tensor,
    change: Callable[[Transformer], Any] = lambda model: model,
    valid: Tensor | None = None,
    rounding: float = 1e-5,
    divide: bool = True,
    dtype: torch.dtype | None = None,
) -> None:
    """Outputs, losses, counts, gradients, their norm, and a step of the optimizer: the ranks' and a single process's.

    Args:
        model: with all experts.
        rows: of the batch, each rank's.
        change: what is called in place of the model, once its experts are divided.
        valid: which tokens are no padding.
        rounding: of sums in another order.
        divide: the experts; else the model is replicated.
        dtype: of autocast.
    """
    close = functools.partial(assert_close, rtol=100 * rounding, atol=rounding)
    autocast = functools.partial(torch.autocast, "cpu", dtype, enabled=dtype is not None)
    with autocast():
        single = Single(model, tokens, targets, Layout(valid_BT=valid))
    parallel = copy.deepcopy(model).train()
    if divide:
        distribute_experts(parallel, dist.group.WORLD)
    called = change(parallel)
    mine = rows[rank]

    layout = Layout(valid_BT=None if valid is None else valid[mine])
    with autocast():
        out = called(tokens[mine], layout, targets=targets[mine], want=["logits"])
    close(out.logits, single.logits[mine])
    here = (targets[mine] >= 0).sum()
    totals = over_ranks(Report(counts={**out.report.counts, "scored": here})).counts
    for name, count in single.counts.items():
        close(totals[name], count)
    losses = {"cross_entropy": out.losses["cross_entropy"] * here / totals["scored"]}
    losses |= parallel.auxiliary(Report(sums=out.report.sums, counts=totals))
    summed = over_ranks(Report(sums=losses)).sums
    assert losses.keys() == single.losses.keys()
    for name, loss in single.losses.items():
        close(summed[name], loss.detach())

    total(losses).backward()
    experts = divided(parallel)
    assert bool(experts) == divide and all(parameter.grad is not None for parameter in experts.values())
    reduce_gradients(parallel)
    gradients = gathered(parallel, {n: p.grad for n, p in parallel.named_parameters() if p.grad is not None})
    assert gradients.keys() == single.gradients.keys()
    for name, gradient in single.gradients.items():
        close(gradients[name], gradient, msg=lambda text, name=name: f"{name}: {text}")
    norm = gradient_norm(parallel)
    close(norm, single.norm)

    for each, counts, size in ((single.model, single.counts, single.norm), (parallel, totals, norm)):
        # What FSDP2 divided stands apart from what it was to ignore, as torch takes no mixture of the two.
        kinds = [
            [(name, p) for name, p in each.named_parameters() if isinstance(p, DTensor) == by_fsdp]
            for by_fsdp in (False, True)
        ]
        for named in kinds:
            torch.nn.utils.clip_grads_with_norm_([p for _, p in named], 0.1, size)
        kind = AdamWConfig(lr=0.01, epsilon=1e-3)
        Optimizer([kind.member(each, named) for named in kinds if named]).step(1.0)
        each.adjust(counts)
    after = full_state_dict(parallel)
    for name, value in single.model.state_dict().items():
        close(after[name], value, msg=lambda text, name=name: f"{name}: {text}")


@torch.no_grad()
def to_first_experts(model: Transformer) -> Transformer:
    """Every token goes to experts 0 and 1: a rank without them has no row to compute."""
    for module in model.modules():
        if isinstance(module, Mixture):
            assert module.router.balance_bias is not None
            module.router.balance_bias.copy_(torch.tensor([4.0, 4.0, 0.0, 0.0]))
    return model


def recomputing(model: Transformer) -> Transformer:
    """Blocks that compute their activations again in the backward pass."""
    for block in model.blocks:
        forward = block.forward
        block.forward = functools.partial(checkpoint, forward, use_reentrant=False)
    return model
