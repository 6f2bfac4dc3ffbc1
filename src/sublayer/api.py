"""The public face in Python: train, load, generate, classify, fill, routing."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sublayer.checkpoint import load_model, load_model_state, load_weights, save_description, states
from sublayer.data import Corpus, Tokenizer, prepare
from sublayer.data.sources import TextConfig
from sublayer.data.tokenizer import FileConfig
from sublayer.errors import CheckpointError, ConfigError, DataError
from sublayer.files import json_mapping, remove_leftovers, written_aside
from sublayer.generation import Classification, Completion, Filled, GenerationConfig, classify, fill_masks, generate
from sublayer.measures.baselines import Baseline, Later, baselines_of
from sublayer.measures.routing import (
    EarlierState,
    Reading,
    RoutingReport,
    held_out_readings,
    measure_routing,
    mixtures,
    text_readings,
)
from sublayer.measures.routing.reading import LONGEST_ROW
from sublayer.measures.score import Score
from sublayer.model import Transformer
from sublayer.run import RunConfig, read_config, values_of, write_config
from sublayer.run_directory import CONFIG, claimed, existing_directory, made, new_directory
from sublayer.training import Outcome, Watcher
from sublayer.training import train as train_model
from sublayer.training.curve import draw_curve
from sublayer.training.device import DtypeName, choose_device, choose_dtype
from sublayer.training.heat_map import draw_heat_map
from sublayer.training.initial import check_vocabulary
from sublayer.training.journal import installed

SUMMARY, CURVE, HEAT_MAP = "summary.json", "loss.svg", "routing.svg"

NULLS = {
    "bigram": ("bigram model", "a bigram model and lzma"),
    "marginal": ("frequencies alone", "how often each target comes"),
}
"""What the held-out loss is set beside, in the words of a legend and of a sentence."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        directory: where everything is.
        config: complete, as `config.yaml` in the directory.
        model: with its last weights, in evaluation mode.
        tokenizer: text to tokens and back.
        corpus: what it was trained on.
        held_out: its loss on all held-out text, by domain.
        best_step: where its held-out loss was lowest; `best/` in the directory holds those weights.
        baselines: what a bigram model and lzma make of the same text, or of other objectives than the next token how
            often each target comes, by domain; empty when the config leaves them out.
        seconds: how long this process trained, by stage: data, forward, backward, update, evaluation, saving, figures.
    """

    directory: Path
    config: RunConfig
    model: Transformer
    tokenizer: Tokenizer
    corpus: Corpus
    held_out: Mapping[str, Score]
    best_step: int
    baselines: Mapping[str, Baseline]
    seconds: Mapping[str, float]


def train(
    config: str | Path | Mapping[str, Any] | RunConfig | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    watcher: Watcher | None = None,
    **overrides: Any,
) -> Run:
    """Train a model from a config.

    Args:
        config: a YAML file, a mapping or a RunConfig; None for the default run, or when resuming the run's own.
        out: directory of the run, which must not exist; left out, `runs/` and a name from date, time and a short word.
        resume: go on with the run in `out` (left out: the newest below `runs/`).
        watcher: told what happens, such as `sublayer.training.Bar`; left out, nothing is shown.
        **overrides: dotted keys to values, as in `**{"training.steps": 200}`.

    Raises:
        ConfigError, DataError, CheckpointError: when the request is wrong; nothing is left behind.
        RunError: when the work fails: a full disk, a loss that is not finite, an interruption (its state saved).
    """
    watcher = watcher or Watcher()
    directory = existing_directory(_path(out)) if resume else new_directory(_path(out))
    source = directory / CONFIG if resume and config is None else config
    if isinstance(source, RunConfig):
        source = values_of(source)
    asked = read_config(source, overrides)
    device = choose_device(asked.device)
    dtype = choose_dtype(asked.dtype, device)
    installed(asked.training.logging)
    with watcher:
        going_on = resume and _has_state(directory)
        start = None if going_on else asked.training.init_from
        if start is not None and isinstance(asked.data.tokenizer, FileConfig):
            # Before the data is read, which can take long; a tokenizer that is learnt has to be waited for.
            check_vocabulary(start, asked.data.tokenizer.build(lambda: iter(())))
        corpus = prepare(asked.data, progress=watcher.preparing)
        if start is not None:
            check_vocabulary(start, corpus.tokenizer)
        complete = asked.with_vocabulary(corpus.tokenizer.vocab_size, corpus.classes)
        with made(directory, resume), claimed(directory):
            remove_leftovers(directory)
            if not going_on:
                write_config(directory / CONFIG, complete)
                save_description(directory, complete.model, corpus.tokenizer)
            baselines = Later(lambda: baselines_of(corpus)) if complete.training.baselines else None
            outcome = train_model(
                complete.model,
                corpus,
                complete.training,
                directory,
                identity=complete.tree() | {"plugins_sha256": _contents(complete.plugins)},
                device=device,
                dtype=dtype,
                watcher=watcher,
                accepted=lambda: write_config(directory / CONFIG, complete),
            )
            watcher.preparing(f"comparing with {NULLS[complete.data.objective.null][1]}", 0.0)
            compared = baselines.result() if baselines is not None else {}
            _write_summary(directory / SUMMARY, outcome, compared)
            null = complete.data.objective.null
            losses = {name: part.loss for name, part in compared.items() if part.loss is not None}
            draw_curve(directory, directory / CURVE, losses, NULLS[null][0])
            draw_heat_map(directory, directory / HEAT_MAP)
    return Run(
        directory,
        complete,
        outcome.model,
        corpus.tokenizer,
        corpus,
        outcome.held_out,
        outcome.progress.best_step,
        compared,
        outcome.seconds,
    )


def load(directory: str | Path, device: str = "cpu", dtype: DtypeName | None = None) -> tuple[Transformer, Tokenizer]:
    """The model and tokenizer of a run or model directory.

    Args:
        directory: of a run (its last weights), its `best/`, or any model directory.
        device: where the model goes.
        dtype: of its weights; left out, as they were saved.  `auto` takes bfloat16 where the hardware computes in it,
            which takes half the memory and, in decoding, half the time; `model.pack()` then makes the most of a CPU.

    Raises:
        CheckpointError: when something in it is missing, damaged or does not fit the rest.
    """
    path = Path(directory)
    if (path / CONFIG).is_file() and not (path / "model.safetensors").is_file():
        raise CheckpointError(
            f"the run in {path} has saved no model yet; go on with: sublayer train --resume --out {path}"
        )
    model, tokenizer = load_model(path, device)
    return model if dtype is None else model.to(choose_dtype(dtype, model.device)), tokenizer


def routing(
    directory: str | Path,
    texts: Sequence[str | Path] = (),
    *,
    tokens: int = 16384,
    device: str = "cpu",
    dtype: DtypeName | None = None,
    watcher: Watcher | None = None,
) -> RoutingReport:
    """What the routers of a model with experts decide, and what that has to do with the text.

    Args:
        directory: of a run, or any model directory.
        texts: files, folders or globs of plain text to read, a domain each; left out, the run's own held-out text.
        tokens: how many are read of each domain, spread evenly over it.
        device, dtype: as for `load`.
        watcher: told what happens; left out, nothing is shown.

    Raises:
        CheckpointError: when the model has no experts that are chosen, or something is missing or damaged.
        ConfigError: when there is no text, or `tokens` is below 1.
        DataError: when text cannot be read, or the run's data is not what it was.
    """
    path, watcher = Path(directory), watcher or Watcher()
    if tokens < 1:
        raise ConfigError(f"--tokens: is {tokens}, and must be at least 1.")
    model, tokenizer = load(path, device, dtype)
    if not mixtures(model):
        soft = any(".router." in name for name in model.state_dict())
        why = "every expert of its model reads mixtures of all tokens" if soft else "its model has no experts"
        raise CheckpointError(f"{path}: {why}, so that none is chosen; name a model whose routers choose experts.")
    with watcher:
        readings = (
            _text_readings(texts, model, tokenizer, tokens)
            if texts
            else _own_readings(path, tokenizer, tokens, watcher)
        )
        earlier, last_step = _earlier(path)
        return measure_routing(
            model,
            tokenizer,
            readings,
            earlier,
            last_step,
            progress=lambda done: watcher.preparing("reading decisions", done),
        )


BATCH_TOKENS = 4096
"""Tokens of a batch when decisions are read."""


def _text_readings(texts: Sequence[str | Path], model: Transformer, tokenizer: Tokenizer, tokens: int) -> list[Reading]:
    for text in texts:
        if not str(text):
            raise ConfigError("--text: an empty name is no file; name a file, a folder or a glob.")
    sources = [TextConfig(path=str(text)) for text in texts]
    length = min(LONGEST_ROW, model.config.longest() or model.config.max_length, tokens)
    two_sided = model.config.stack == "encoder_decoder"
    return text_readings(sources, tokenizer, length, max(1, BATCH_TOKENS // length), tokens, two_sided)


def _own_readings(path: Path, tokenizer: Tokenizer, tokens: int, watcher: Watcher) -> list[Reading]:
    if not (path / CONFIG).is_file():
        raise ConfigError(
            f"--text: {path} is no run (there is no {CONFIG}), so its text is not known; name some files."
        )
    corpus = prepare(read_config(path / CONFIG).data, progress=watcher.preparing)
    if not corpus.tokenizer.same_vocabulary(tokenizer):
        raise DataError(
            f"the data of the run in {path} changed since it was trained, and so did the tokenizer made from it; bring "
            "the old files back, or name other text with --text."
        )
    return held_out_readings(corpus, max(1, BATCH_TOKENS // corpus.config.row_shape().places), tokens)


def _earlier(path: Path) -> tuple[list[EarlierState], int | None]:
    """The states that a run has beside its last weights, and the step of these."""
    found = states(path / "checkpoints")
    try:
        summary = json_mapping(path / SUMMARY)
    except (OSError, ValueError):  # of a run that was stopped, or of no run
        summary = {}
    last, best = summary.get("step"), summary.get("best_step")
    if not isinstance(last, int):
        last = found[-1][0] if found else None
    if last is None:
        return [], None
    before = {
        step: EarlierState(f"step {step}", step, lambda state=state: load_model_state(state))  # type: ignore[misc]
        for step, state in found
        if step < last
    }
    if isinstance(best, int) and 0 < best < last and best not in before and (path / "best").is_dir():
        before[best] = EarlierState(f"best, step {best}", best, lambda: load_weights(path / "best"))
    return [before[step] for step in sorted(before)], last


def _write_summary(path: Path, outcome: Outcome, baselines: Mapping[str, Baseline]) -> None:
    """The figures at the end of a run, as JSON."""
    progress = outcome.progress
    values = {
        "step": progress.step,
        "skipped": progress.skipped,
        "best_step": progress.best_step,
        "held_out": {name: score.figures() for name, score in outcome.held_out.items()},
        "baselines": {name: _compared(part) for name, part in baselines.items()},
    }
    with written_aside(path) as aside:
        aside.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _compared(part: Baseline) -> dict[str, dict[str, float]]:
    scores = {"bigram": part.bigram, "marginal": part.marginal}
    told = {name: score.figures() for name, score in scores.items() if score is not None}
    return told if part.lzma is None else told | {"lzma": {"alone": part.lzma.alone, "primed": part.lzma.primed}}


def _contents(plugins: Iterable[str]) -> dict[str, str]:
    """The digest of each plug-in's file, so that a run does not go on with other code unnoticed."""
    return {plugin: hashlib.sha256(Path(plugin).read_bytes()).hexdigest()[:16] for plugin in plugins}


def _has_state(directory: Path) -> bool:
    return any((directory / "checkpoints").glob("step-*"))


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


__all__ = [
    "Classification",
    "Completion",
    "Filled",
    "GenerationConfig",
    "Run",
    "classify",
    "fill_masks",
    "generate",
    "load",
    "routing",
    "train",
]
