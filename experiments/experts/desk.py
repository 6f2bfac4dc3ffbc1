"""The runs that studies are made of: trained where they are missing, gone on with where they stopped, and read."""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml

from sublayer.api import train
from sublayer.errors import ConfigError
from sublayer.files import json_mapping, written_aside
from sublayer.run import RunConfig, read_config
from sublayer.training import Watcher
from sublayer.training.journal import METRICS, TIMING, read

from .arithmetic import Curve

HERE = Path(__file__).parent
DENSE, EXPERTS = HERE / "dense.yaml", HERE / "experts.yaml"
CONFIG, SUMMARY, MACHINE = "config.yaml", "summary.json", "machine.jsonl"

SETTLED = 0.75
"""How experts are used is told of the steps behind this share of a run."""

Changes = Mapping[str, Any]
"""Dotted keys to values."""


@dataclass(frozen=True)
class Variant:
    """A run, but for its seed.

    Attributes:
        name: of its directory.
        source: the YAML that it varies.
        changes: what it has otherwise.
        start: a model directory that it starts from, whose model and tokenizer it then has; left out, none.
    """

    name: str
    source: Path = EXPERTS
    changes: Changes = field(default_factory=dict)
    start: Path | None = None


class Finished:
    """What a finished run left.

    Args:
        directory: of the run.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @cached_property
    def config(self) -> RunConfig:
        return read_config(self.directory / CONFIG)

    @property
    def tokens_a_step(self) -> int:
        return self.config.training.batch_size * self.config.data.sequence_length

    @property
    def tokens(self) -> int:
        """Read in training."""
        return self.config.training.steps * self.tokens_a_step

    @cached_property
    def losses(self) -> dict[str, float]:
        """Nats a token of all held-out text, by domain."""
        parts = json_mapping(self.directory / SUMMARY)["held_out"]
        return {domain: figures["loss"] for domain, figures in parts.items()}

    @property
    def loss(self) -> float:
        """The mean of the domains'."""
        return statistics.fmean(self.losses.values())

    @cached_property
    def curve(self) -> Curve:
        """Of the part of the held-out text that evaluations read, the mean of the domains'."""
        return [
            (line["step"] * self.tokens_a_step, statistics.fmean(part["loss"] for part in line["held_out"].values()))
            for line in read(self.directory / METRICS)
            if "held_out" in line
        ]

    @cached_property
    def step_seconds(self) -> float:
        """Of a training step: the median of those that are logged, so that a slow moment of the machine has no part."""
        speeds = [line["tokens_per_second"] for line in read(self.directory / TIMING) if "tokens_per_second" in line]
        return self.tokens_a_step / statistics.median(speeds)

    @property
    def seconds(self) -> float:
        """Of all steps, evaluations left out."""
        return self.config.training.steps * self.step_seconds

    def routing(self) -> list[tuple[int, dict[str, Any]]]:
        """The step and the figures by layer, for every line that has some."""
        return [(line["step"], line["routing"]) for line in read(self.directory / METRICS) if "routing" in line]

    def settled(self) -> list[dict[str, Any]]:
        """The figures of layers in the last part of the run, one after the other."""
        first = SETTLED * self.config.training.steps
        return [layer for step, layers in self.routing() if step > first for layer in layers.values()]

    @property
    def others(self) -> float | None:
        """Cores that other processes had meanwhile, at the most of the sittings it was trained in; None if unknown."""
        known = [line["others"] for line in read(self.directory / MACHINE) if line["others"] is not None]
        return max(known, default=None)


@dataclass
class Desk:
    """Where studies are made.

    Attributes:
        out: folder of the runs and of what is found.
        overrides: `key=value` texts that hold for every run.
        seeds: how many runs of each variant; left out, what the study takes.
        only_read: train nothing.
        missing: runs that were not there to be read.
    """

    out: Path
    overrides: Sequence[str] = ()
    seeds: int | None = None
    only_read: bool = False
    missing: list[str] = field(default_factory=list)

    def config(self, variant: Variant, seed: int) -> RunConfig:
        """Of a run: the YAML, `overrides` over it, and the variant's own changes over these."""
        overrides = list(self.overrides)
        values: dict[str, Any] = yaml.safe_load(variant.source.read_text(encoding="utf-8"))
        if variant.start is not None:
            del values["model"], values["data"]["tokenizer"]
            overrides = [text for text in overrides if not text.startswith(("model.", "data.tokenizer"))]
            values["training"]["init_from"] = str(variant.start)
        own = {**variant.changes, "training.seed": seed}
        return read_config(values, [*overrides, *(f"{key}={json.dumps(value)}" for key, value in own.items())])

    @property
    def steps(self) -> int:
        """Of a run that does not say how many."""
        return self.config(Variant("", DENSE), 0).training.steps

    def directory(self, variant: Variant, seed: int) -> Path:
        return self.out / variant.name / f"seed-{seed}"

    def run(self, variant: Variant, seed: int) -> Finished | None:
        """The finished run; trained now, or from where it stopped, unless nothing is to be trained.

        Raises:
            ConfigError: when its directory holds a run of another config.
        """
        directory = self.directory(variant, seed)
        if not (directory / SUMMARY).is_file():
            if self.only_read:
                self.missing.append(f"{variant.name}/seed-{seed}")
                return None
            config = self.config(variant, seed)
            self._train(directory, config)
            return Finished(directory)
        done = Finished(directory)
        if variant.start is None or variant.start.is_dir():
            asked = self.config(variant, seed).with_vocabulary(done.config.model.vocab_size or 0)
            if asked.tree() != done.config.tree():
                raise ConfigError(
                    f"{directory} was trained with another config; name another --out, or give the same key=value."
                )
        return done

    def runs(self, variant: Variant, seeds: int) -> list[Finished]:
        """Those of all seeds that there are."""
        found = [self.run(variant, seed) for seed in range(self.seeds or seeds)]
        return [run for run in found if run is not None]

    def in_turn(self, variants: Sequence[Variant], seeds: int) -> dict[str, list[Finished]]:
        """The runs of several variants by name: all of a seed before any of the next, so that a machine that is slower
        for a while is so for all."""
        found: dict[str, list[Finished]] = {variant.name: [] for variant in variants}
        for seed in range(self.seeds or seeds):
            for variant in variants:
                run = self.run(variant, seed)
                if run is not None:
                    found[variant.name].append(run)
        return found

    def _train(self, directory: Path, config: RunConfig) -> None:
        resume = (directory / CONFIG).is_file()
        began, busy, own = time.time(), _busy_seconds(), time.process_time()
        train(config, out=directory, resume=resume, watcher=_Lines(str(directory)))
        seconds = time.time() - began
        others = None
        if busy is not None:
            others = max(0.0, (_busy_seconds() or 0.0) - busy - (time.process_time() - own)) / seconds
        line = {
            "began": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(began)),
            "seconds": round(seconds, 1),
            "others": None if others is None else round(others, 2),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        with (directory / MACHINE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _busy_seconds() -> float | None:
    """Of all cores since the machine started, whoever had them; None where that is not told."""
    try:
        first = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()
    except OSError:
        return None
    user, nice, system, _idle, _waiting, interrupt, soft = map(int, first[1:8])
    return (user + nice + system + interrupt + soft) / os.sysconf("SC_CLK_TCK")


class _Lines(Watcher):
    """A line when a run begins, now and then, and what it notices."""

    def __init__(self, name: str, every_seconds: float = 30.0) -> None:
        self._name, self._every, self._last, self._steps = name, every_seconds, time.monotonic(), 0

    def started(self, step: int, steps: int, note: str) -> None:
        self._steps = steps
        self._print(note)

    def trained(self, step: int, loss: float, tokens_per_second: float) -> None:
        if time.monotonic() - self._last >= self._every or step == self._steps:
            self._print(f"step {step}/{self._steps}, loss {loss:.3f}, {tokens_per_second:,.0f} tokens/s")

    def noticed(self, note: str) -> None:
        self._print(note)

    def _print(self, text: str) -> None:
        self._last = time.monotonic()
        print(f"{self._name}: {text}", file=sys.stderr, flush=True)


def saved(path: Path, values: Any) -> None:
    """As JSON."""
    with written_aside(path) as aside:
        aside.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
