"""Trains a mixture of experts on several processes of the CPU, and counts the bytes that they send each other.

torchrun --nproc-per-node 2 experts_on_ranks.py
"""

from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

import sublayer as sl
from sublayer.checkpoint import save_weights
from sublayer.data import DataConfig, prepare
from sublayer.model import Report
from sublayer.model.experts.exchange import counted_traffic, moved_bytes
from sublayer.model.experts.parallel import distribute_experts
from sublayer.training.crew import Crew
from sublayer.training.gradients import gradient_norm, reduce_gradients
from sublayer.training.optimizer.adamw import AdamWConfig
from sublayer.training.passes import Passes
from sublayer.training.ranks import over_ranks

CPU = torch.device("cpu")


def main(directory: Path, steps: int = 20, batch_size: int = 16) -> None:
    rank, n_ranks = dist.get_rank(), dist.get_world_size()
    corpus = prepare(DataConfig(tokenizer="bytes", sequence_length=128))
    config = sl.ModelConfig(
        vocab_size=corpus.tokenizer.vocab_size,
        d_model=128,
        n_layers=4,
        max_length=128,
        attention={"n_heads": 4},
        feed_forward={"kind": "experts", "n_experts": 8, "balance": {"kind": "load", "scope": "global_batch"}},
    )
    model = sl.Transformer(config, seed=0).train()
    mesh = init_device_mesh("cpu", (n_ranks,), mesh_dim_names=("experts",))
    distribute_experts(model, mesh["experts"])
    optimizer = AdamWConfig(lr=1e-3).build(model)  # after the experts were divided

    each = batch_size // n_ranks
    with Crew(1) as crew, counted_traffic() as traffic:
        passes = Passes(model, model, crew, CPU, torch.float32)
        for step in range(steps):
            # The step's sequences do not depend on how many ranks there are; each rank has some of them.
            passed = passes.through([corpus.batch(0, step * batch_size + rank * each, each)])
            reduce_gradients(model)
            norm = gradient_norm(model)
            torch.nn.utils.clip_grads_with_norm_(model.parameters(), 1.0, norm)
            optimizer.step(1.0)
            model.adjust(passed.counts)
            model.zero_grad()
            losses = over_ranks(Report(sums=passed.losses)).sums
            if rank == 0:
                print(f"step {step + 1}  loss {float(losses['loss']):.4f}  gradient norm {float(norm):.4f}", flush=True)

    moved = over_ranks(Report(counts={"bytes": torch.tensor(traffic.bytes)})).counts["bytes"]
    tokens = steps * each * n_ranks * config.max_length
    if rank == 0:
        print(f"{float(moved) / tokens:,.1f} bytes moved a token; by formula {moved_bytes(config, n_ranks):,.1f}")
    save_weights(directory, model)  # every rank calls it, and the first one writes all experts


if __name__ == "__main__":
    dist.init_process_group("gloo")
    main(Path.cwd())
    dist.destroy_process_group()
