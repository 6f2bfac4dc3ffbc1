"""The training loop.

Shapes: B batch, T tokens.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sublayer.checkpoint import save_model, save_weights
from sublayer.data import Batch, Corpus
from sublayer.data.reading import epochs_in_words, passed_by, warnings
from sublayer.errors import CheckpointError, ConfigError, RunError
from sublayer.measures.held_out import held_out
from sublayer.measures.score import Score, total
from sublayer.model import ModelConfig, Transformer
from sublayer.training.clock import Clock
from sublayer.training.config import TrainingConfig
from sublayer.training.crew import Crew, choose_threads
from sublayer.training.device import autocast
from sublayer.training.initial import start_from
from sublayer.training.journal import Journal
from sublayer.training.passes import Passes
from sublayer.training.routing import RoutingRecord
from sublayer.training.state import Checkpoints, Progress
from sublayer.training.stop import Stopped, StopSignals
from sublayer.training.watcher import Watcher

MOST_SKIPPED_IN_A_ROW = 10
"""Steps without a finite loss or gradient after which a run gives up."""


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        model: with its last weights, in evaluation mode.
        held_out: its loss on all held-out text, by domain.
        progress: where the run stands.
        seconds: how long this process trained, by stage.
    """

    model: Transformer
    held_out: Mapping[str, Score]
    progress: Progress
    seconds: Mapping[str, float]


def train(
    model_config: ModelConfig,
    corpus: Corpus,
    config: TrainingConfig,
    directory: Path,
    *,
    identity: Mapping[str, Any],
    device: torch.device,
    dtype: torch.dtype,
    watcher: Watcher | None = None,
    accepted: Callable[[], None] = lambda: None,
) -> Outcome:
    """Train a model, going on from the last state in `directory` if there is one.

    Args:
        model_config: with `vocab_size`.
        corpus: the data.
        config: how to train.
        directory: of the run; it exists, and no other process trains in it.
        identity: the whole config as plain values; a state of another one is refused.
        device, dtype: where, and the dtype of matrix products.
        watcher: told what happens.
        accepted: called when the state, if there is one, was found to belong to this config, before the first step.

    Raises:
        CheckpointError: when the state is damaged or belongs to another config or other data, or the weights to start
            from do not fit.
        ConfigError: when the state has more steps than are asked for.
        RunError: when the disk is full, or ten steps in a row had no finite loss or gradient.
        Stopped: when Ctrl-C or SIGTERM asked for it; the state was saved.
    """
    watcher = watcher or Watcher()
    torch.manual_seed(config.seed)
    model = Transformer(model_config, seed=config.seed).to(device)
    optimizer = config.optimizer.build(model)
    checkpoints = Checkpoints(directory / "checkpoints", identity, corpus.fingerprint, config.keep_checkpoints)
    progress = checkpoints.restore(model, optimizer)
    started = ""
    if progress.step == 0 and config.init_from is not None:
        started = start_from(config.init_from, model)
    if progress.step > config.steps:
        raise ConfigError(
            f"training.steps: is {config.steps}, but the run in {directory} has done {progress.step} already; ask for "
            "at least as many, or train into another directory."
        )
    forward = torch.compile(model) if config.compile else model
    micro_batch = config.batch_size // config.accumulation
    crew = _crew(progress, config, micro_batch, device, dtype)
    passes = Passes(model, forward, crew, device, dtype, config.accumulation)
    parameters = passes.parameters
    routing = RoutingRecord(model, progress.routing)
    results: Mapping[str, Score] = {}
    accepted()

    def evaluate(max_tokens: int | None) -> Mapping[str, Score]:
        def run(score: Callable[[Batch], Score], batches: Iterable[Batch]) -> Iterable[Score]:
            return crew.map(lambda batch: _cast(score, batch, device, dtype), batches)

        return held_out(model, corpus, max(1, micro_batch // crew.threads), max_tokens, run)

    def asked_to_stop(name: str) -> None:
        watcher.noticed(f"{name}: stopping after this step; once more ends it at once.")

    with (
        StopSignals(asked_to_stop) as stop,
        Journal(directory, config.logging, progress.step) as journal,
        crew,
    ):
        n_samples = config.steps * config.batch_size
        watcher.started(progress.step, config.steps, _note(model, corpus, n_samples, progress, device, dtype))
        for warning in [*([started] if started else []), *passed_by(corpus), *warnings(corpus, n_samples)]:
            watcher.noticed(warning)
        model.train()
        began = last = time.monotonic()
        clock = Clock()
        while progress.step < config.steps:
            factor = config.schedule.factor(progress.step, config.steps)
            batches = shares(corpus, config, progress.step, crew.threads)

            # Forward and backward.
            passed = passes.through(batches, clock)
            losses = passed.losses

            # The update, or none when a number is not finite.
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            finite = bool(torch.isfinite(norm)) and bool(torch.isfinite(losses["loss"]))
            progress.step += 1
            if finite:
                if config.clip_norm is not None:
                    torch.nn.utils.clip_grads_with_norm_(parameters, config.clip_norm, norm)
                optimizer.step(factor, crew.together)
                model.adjust(passed.counts)
                routing.add(passed.counts)
                progress.skipped_in_a_row = 0
            else:
                progress.skipped += 1
                progress.skipped_in_a_row += 1
                watcher.noticed(f"step {progress.step}: the loss or a gradient is not finite; the step was skipped.")
                if progress.skipped_in_a_row >= MOST_SKIPPED_IN_A_ROW:
                    raise RunError(_diverged(progress, model))
            model.zero_grad()
            clock.lap("update")

            # Figures.
            now = time.monotonic()
            speed, last = sum(batch.n_tokens for batch in batches) / (now - last), now
            watcher.trained(progress.step, float(losses["loss"]), speed)
            if progress.step % config.logging.every == 0 or progress.step == config.steps:
                # With no auxiliary loss, the cross-entropy is the loss, and one figure says both.
                figures: dict[str, Any] = {
                    name: float(loss) for name, loss in losses.items() if len(losses) > 2 or name == "loss"
                }
                figures |= {"lr": factor * config.optimizer.lr, "grad_norm": float(norm), "skipped": progress.skipped}
                if used := routing.line():
                    figures["routing"] = used
                journal.write(
                    progress.step, figures, timing={"tokens_per_second": round(speed), "seconds": round(now - began, 3)}
                )
                for note in routing.notes():
                    watcher.noticed(f"step {progress.step}: {note}")
            clock.lap("figures")

            # Held-out text, the best weights, and the state.
            done = progress.step == config.steps
            if done or progress.step % config.evaluate_every == 0:
                results = evaluate(config.evaluation_tokens)
                journal.write(
                    progress.step,
                    {"held_out": {domain: result.figures() for domain, result in results.items()}},
                )
                watcher.evaluated(progress.step, results)
                clock.lap("evaluation")
                current = total(results.values()).loss
                # The first one may not have been a number, and any is better than that.
                if progress.best_loss is None or current < progress.best_loss or math.isnan(progress.best_loss):
                    progress.best_loss, progress.best_step = current, progress.step
                    save_model(directory / "best", model, corpus.tokenizer)
            if done or stop.name or progress.step % config.checkpoint_every == 0:
                # The weights first: a run killed between the two does these steps again, and writes both.
                save_weights(directory, model)
                progress.routing = routing.state()
                checkpoints.save(progress, model, optimizer)
            clock.lap("saving")
            if stop.name and not done:
                raise Stopped(f"stopped by {stop.name} at step {progress.step} of {config.steps}; everything is saved.")
            last = time.monotonic()

        if not results or config.evaluation_tokens is not None:
            results = evaluate(None)  # in the steps before, one and the same part of the text
        clock.lap("evaluation")
        journal.write(progress.step, {}, timing={"stages": {name: round(s, 3) for name, s in clock.seconds.items()}})
    return Outcome(model.eval(), results, progress, clock.seconds)


def _crew(
    progress: Progress, config: TrainingConfig, micro_batch: int, device: torch.device, dtype: torch.dtype
) -> Crew:
    """The threads of a run: those that it began with, or the ones chosen now.

    Raises:
        CheckpointError: when a run that was begun on one device or in one dtype would go on in another.
    """
    here = {"device": device.type, "dtype": str(dtype).removeprefix("torch.")}
    for name, now in here.items():
        before = getattr(progress, name)
        if before and before != now:
            raise CheckpointError(
                f"{name}: the run was begun in {before} and would go on in {now}, with other rounding; "
                f"set {name}={before}, or train into another directory."
            )
        setattr(progress, name, now)
    if progress.threads:
        return Crew(progress.threads, progress.cores)
    crew = Crew(choose_threads(config.threads, micro_batch, device, config.compile))
    progress.threads, progress.cores = crew.threads, crew.cores
    return crew


def shares(corpus: Corpus, config: TrainingConfig, step: int, threads: int) -> list[Batch]:
    """The sequences of step number `step` (from 0): its micro-batches, each divided among the threads."""
    micro_batch = config.batch_size // config.accumulation
    # As even as can be: the first ones have one sequence more.
    sizes = [micro_batch // threads + (thread < micro_batch % threads) for thread in range(min(threads, micro_batch))]
    batches, first = [], step * config.batch_size
    for size in sizes * config.accumulation:
        batches.append(corpus.batch(config.seed, first, size))
        first += size
    return batches


def _cast(score: Callable[[Batch], Score], batch: Batch, device: torch.device, dtype: torch.dtype) -> Score:
    with autocast(device, dtype):  # holds for the thread that enters it
        return score(batch)


def _note(
    model: Transformer, corpus: Corpus, n_samples: int, progress: Progress, device: torch.device, dtype: torch.dtype
) -> str:
    sides = [sides["training"]["tokens"] for sides in corpus.describe().values() if "training" in sides]
    note = (
        f"{model.n_parameters():,} parameters ({model.n_parameters(embeddings=False):,} without embeddings) · "
        f"{sum(sides):,} training tokens · {epochs_in_words(corpus, n_samples)} · "
        f"{device.type}, {str(dtype).removeprefix('torch.')}"
    )
    return f"resuming at step {progress.step} · {note}" if progress.step else note


def _diverged(progress: Progress, model: Transformer) -> str:
    norms = {n: float(p.grad.norm()) for n, p in model.named_parameters() if p.grad is not None}
    # A norm that is not a number is larger than any.
    largest = sorted(norms, key=lambda name: norms[name] if norms[name] == norms[name] else float("inf"), reverse=True)
    named = ", ".join(f"{name} ({norms[name]:.3g})" for name in largest[:3])
    return (
        f"no finite loss or gradient in the last {progress.skipped_in_a_row} steps, up to step {progress.step}; the "
        f"largest gradients are in {named}; lower training.optimizer.lr, set a warmup, or look at the data."
    )
