"""A training step of the default run: shares of the batch in threads, against all cores on each operation.

    python benchmarks/threads.py [other processes]

With a number, so many busy processes run beside, as on a machine that does something else as well.  Prints the ratio of
the medians: above 1, threads with shares are the faster.
"""

import multiprocessing
import sys

import torch
from timing import medians

from sublayer.data import prepare
from sublayer.measures.held_out import layout_of
from sublayer.model import Transformer
from sublayer.run import read_config
from sublayer.training.crew import Crew, choose_threads
from sublayer.training.device import autocast, choose_dtype
from sublayer.training.loop import shares


def busy() -> None:
    """Works without end."""
    while True:
        sum(range(10_000))


def main() -> None:
    config = read_config(None)
    corpus = prepare(config.data)
    config = config.with_vocabulary(corpus.tokenizer.vocab_size)
    training, cpu = config.training, torch.device("cpu")
    dtype = choose_dtype("auto", cpu)
    model = Transformer(config.model)
    optimizer = training.optimizer.build(model)
    parameters = list(model.parameters())

    def gradients(batch):
        with autocast(cpu, dtype):
            out = model(batch.tokens_BT, layout_of(batch, cpu), targets=batch.targets_BT)
        return torch.autograd.grad(out.loss, parameters)

    def step(crew: Crew) -> None:
        torch.set_num_threads(crew.cores)
        for parts in crew.map(gradients, shares(corpus, training, 0, crew.threads)):
            for parameter, part in zip(parameters, parts, strict=True):
                parameter.grad = part if parameter.grad is None else parameter.grad + part
        optimizer.step(1.0, crew.together)
        model.zero_grad()

    others = [multiprocessing.Process(target=busy, daemon=True) for _ in range(int((sys.argv[1:] or ["0"])[0]))]
    for other in others:
        other.start()
    threads = choose_threads("auto", training.batch_size, cpu, compiled=False)
    with Crew(1) as alone, Crew(threads, 1) as together:
        times = medians({"each operation": lambda: step(alone), "shares": lambda: step(together)}, rounds=20)
    tokens = training.batch_size * config.data.sequence_length
    print(f"torch {torch.__version__}, {threads} cores, {len(others)} other busy processes")
    for name, seconds in times.items():
        print(f"{name:>15}: {tokens / seconds:8,.0f} tokens/s")
    print(f"{'ratio':>15}: {times['each operation'] / times['shares']:8.2f}")
    for other in others:
        other.terminate()


if __name__ == "__main__":
    main()
