"""A training step on a CPU beside peers (extra `peers`): the same Llama, loss, optimizer and batch, in bfloat16.

    python benchmarks/training.py [--compiled] [--rounds N]

sublayer's step is the one that `sublayer train` makes: the batch divided among threads, one a core; compiled, or for a
peer, all cores work on each operation.  Prints ratios of medians, each way's turn coming once a round.
"""

import argparse
from collections.abc import Callable

import torch
from peers import (
    SMALL,
    Loss,
    hugging_face,
    litgpt,
    loss_of,
    n_parameters,
    optimizer_of,
    ours,
    seeded_tokens,
    x_transformers,
)
from timing import medians, table
from torch import nn

from sublayer.training.crew import Crew
from sublayer.training.device import autocast, choose_dtype

BATCH, LENGTH = 8, 256
CPU = torch.device("cpu")
PEERS = {"Hugging Face Llama": hugging_face, "x-transformers": x_transformers, "litgpt": litgpt}


def together(model: nn.Module) -> Callable[[], None]:
    """A step in which all cores work on each operation."""
    optimizer, loss = optimizer_of(model), loss_of(model)
    tokens, targets = seeded_tokens(BATCH, LENGTH, SMALL.vocab_size)

    def step() -> None:
        with autocast(CPU, choose_dtype("auto", CPU)):
            value = loss(tokens, targets)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def in_shares(model: nn.Module, crew: Crew) -> Callable[[], None]:
    """A step whose sequences are divided among threads, as `sublayer train` does it."""
    optimizer, loss = optimizer_of(model), loss_of(model)
    parameters = list(model.parameters())
    rows = [part.chunk(crew.threads) for part in seeded_tokens(BATCH, LENGTH, SMALL.vocab_size)]

    def gradients(share: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        with autocast(CPU, choose_dtype("auto", CPU)):
            value = loss(*share) / crew.threads
        return torch.autograd.grad(value, parameters)

    def step() -> None:
        for parts in crew.map(gradients, zip(*rows, strict=True)):
            for parameter, part in zip(parameters, parts, strict=True):
                parameter.grad = part if parameter.grad is None else parameter.grad.add_(part)
        optimizer.step()
        optimizer.zero_grad()

    return step


def on_cores(step: Callable[[], None], cores: int) -> Callable[[], None]:
    """A step with all cores for what this thread does; sublayer's own threads have one each."""

    def run() -> None:
        torch.set_num_threads(cores)
        step()

    return run


def check(losses: dict[str, Loss]) -> None:
    """Every model predicts as badly as chance before training, so none computes something else."""
    tokens, targets = seeded_tokens(BATCH, LENGTH, SMALL.vocab_size)
    for name, loss in losses.items():
        with torch.no_grad():
            value = float(loss(tokens, targets))
        assert 8 < value < 10, f"{name}: a loss of {value:.2f} where chance is 8.32"


def main() -> None:
    parser = argparse.ArgumentParser(description="A training step on a CPU beside peers.")
    parser.add_argument("--compiled", action="store_true", help="compile sublayer's and Hugging Face's model as well")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()

    cores = torch.get_num_threads()
    models = {"sublayer": ours(SMALL), **{name: build(SMALL) for name, build in PEERS.items()}}
    for model in models.values():
        model.train()
    check({name: loss_of(model) for name, model in models.items()})
    sizes = {name: n_parameters(model) for name, model in models.items()}

    ways: dict[str, Callable[[], None]] = {name: together(model) for name, model in models.items() if name in PEERS}
    crew = Crew(cores, 1)
    ways["sublayer"] = in_shares(models["sublayer"], crew)
    if options.compiled:
        for name, build in {"sublayer": ours, "Hugging Face Llama": hugging_face}.items():
            ways[f"{name}, compiled"] = together(torch.compile(build(SMALL).train()))
            sizes[f"{name}, compiled"] = sizes[name]
    with crew:
        times = medians({name: on_cores(way, cores) for name, way in ways.items()}, options.rounds)
    print(f"torch {torch.__version__}, {cores} cores; {BATCH} sequences of {LENGTH} tokens a step, bfloat16, AdamW")
    print(
        table(
            ["model", "parameters", "tokens/s", "sublayer ÷ it", "compiled sublayer ÷ it"],
            [
                [
                    name,
                    f"{sizes[name] / 1e6:.2f}M",
                    f"{BATCH * LENGTH / seconds:,.0f}",
                    f"{seconds / times['sublayer']:.2f}×",
                    f"{seconds / times['sublayer, compiled']:.2f}×" if options.compiled else "",
                ]
                for name, seconds in times.items()
            ],
        )
    )


if __name__ == "__main__":
    main()
