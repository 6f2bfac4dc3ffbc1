"""What a rank of `test_passes` computes; in a file of its own, since each rank imports it anew."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from sublayer.data import Batch
from sublayer.model import ModelConfig, Transformer
from sublayer.model.loss import IGNORED
from sublayer.training.crew import Crew
from sublayer.training.passes import Passed, Passes

ROWS, LENGTH, VOCABULARY = 8, 12, 32
CPU = torch.device("cpu")


def model_of(balance: object, **feed_forward: object) -> Transformer:
    """Two layers with experts, in double precision; attention dropout or noise only where they are asked for."""
    experts = {"kind": "experts", "n_experts": 4, "top_k": 2, "balance": balance, **feed_forward}
    config = ModelConfig.parse(
        {
            "vocab_size": VOCABULARY,
            "d_model": 8,
            "n_layers": 2,
            "max_length": LENGTH,
            "attention": {"n_heads": 2},
            "feed_forward": experts,
        }
    )
    return Transformer(config).double().train()


def batches(first: int, last: int, parts: int) -> list[Batch]:
    """Rows of one and the same batch, in parts; they have unequal numbers of targets."""
    drawn = torch.Generator().manual_seed(1)
    tokens_BT = torch.randint(0, VOCABULARY, (ROWS, LENGTH), generator=drawn)
    targets_BT = torch.randint(0, VOCABULARY, (ROWS, LENGTH), generator=drawn)
    for row in range(ROWS):
        targets_BT[row, 3 + row :] = IGNORED
    rows = zip(tokens_BT[first:last].chunk(parts), targets_BT[first:last].chunk(parts), strict=True)
    return [Batch(tokens, targets, None, None, None) for tokens, targets in rows]


def gradients(model: Transformer, given: list[Batch], accumulation: int, threads: int) -> tuple[Passed, list[Tensor]]:
    """What the passes gave, in a second step, since threads come in behind the first; and the gradients."""
    with Crew(threads, 1) as crew:
        passes = Passes(model, model, crew, CPU, torch.float32, accumulation)
        state = torch.get_rng_state()
        for _ in range(2):
            torch.set_rng_state(state)
            model.zero_grad()
            passed = passes.through(given)
    return passed, [p.grad if p.grad is not None else torch.zeros_like(p) for p in passes.parameters]


def rank(number: int, n_ranks: int, folder: str, balance: object) -> None:
    """Compute one rank's rows; the gradients, summed over ranks, and the counts go to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=n_ranks)
    size = ROWS // n_ranks
    passed, found = gradients(model_of(balance), batches(number * size, (number + 1) * size, 1), 1, 1)
    for gradient in found:
        dist.all_reduce(gradient)
    losses = {name: loss.detach().clone() for name, loss in passed.losses.items()}
    for loss in losses.values():
        dist.all_reduce(loss)
    if number == 0:
        torch.save({"gradients": found, "counts": dict(passed.counts), "losses": losses}, Path(folder) / "found.pt")
    dist.barrier()
    dist.destroy_process_group()
