"""Minute runs, and everything in them that must be the same again."""

import random
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sublayer.checkpoint import load_state
from sublayer.training import Watcher

WORDS = "when in the course of human events it becomes necessary for one people to dissolve".split()


def write_notes(folder: Path, seed: int = 0, files: int = 3) -> Path:
    """A folder of text, a few thousand bytes in all."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    for number in range(files):
        lines = (" ".join(draw.choices(WORDS, k=8)) for _ in range(30))
        (folder / f"{number}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def tree(notes: Path, *, model: Mapping[str, Any] | None = None, **training: Any) -> dict[str, Any]:
    """The config of a run of a second: 6 steps, a state every 2, an evaluation every 3, a figure every step."""
    return {
        "version": 1,
        "device": "cpu",
        "dtype": "float32",
        "model": {"d_model": 16, "n_layers": 1, "max_length": 32, "attention": {"n_heads": 2}, **(model or {})},
        "data": {
            "sources": [{"kind": "text", "path": str(notes)}],
            "tokenizer": "bytes",
            "sequence_length": 16,
            "validation_share": 0.1,
        },
        "training": {
            "steps": 6,
            "batch_size": 4,
            "checkpoint_every": 2,
            "evaluate_every": 3,
            "evaluation_tokens": 64,
            "baselines": False,
            "logging": {"every": 1, "tensorboard": False},
            **training,
        },
    }


class Crash(Exception):
    """What `CrashAt` raises."""


class CrashAt(Watcher):
    """Ends a run behind a step, before anything of that step is written."""

    def __init__(self, step: int) -> None:
        self.step = step

    def trained(self, step: int, loss: float, tokens_per_second: float) -> None:
        if step == self.step:
            raise Crash


class StopAt(Watcher):
    """Asks a run to stop behind a step, as a person at a terminal or a cluster does."""

    def __init__(self, step: int, number: signal.Signals = signal.SIGINT) -> None:
        self.step, self.number = step, number

    def trained(self, step: int, loss: float, tokens_per_second: float) -> None:
        if step == self.step:
            signal.raise_signal(self.number)


class Notes(Watcher):
    """Keeps what a person would be told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def noticed(self, note: str) -> None:
        self.notes.append(note)


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run: by tag, the steps and values, those of the clock left out."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(directory / "tensorboard"), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
        if not tag.startswith(("tokens_per_second", "seconds", "stages"))
    }


def left(directory: Path) -> dict[str, Any]:
    """Everything a run leaves that follows from its config."""
    loaded = load_state(directory / "checkpoints")
    assert loaded is not None
    tensors, metadata = loaded
    return {
        "metrics": (directory / "metrics.jsonl").read_bytes(),
        "summary": (directory / "summary.json").read_bytes(),
        "weights": load_file(directory / "model.safetensors"),
        "best": load_file(directory / "best" / "model.safetensors"),
        "best files": {path.name for path in (directory / "best").iterdir()},
        "state": tensors,
        "progress": metadata["progress"],
        "states": sorted(path.name for path in (directory / "checkpoints").iterdir()),
    }


def assert_equal_runs(one: Path, other: Path) -> None:
    """Bit for bit the same weights, optimizer, generators and figures, and nothing half-written beside them."""
    before, after = left(one), left(other)
    assert before.keys() == after.keys()
    for name, value in before.items():
        if isinstance(value, dict) and any(isinstance(each, Tensor) for each in value.values()):
            assert_equal_tensors(value, after[name], name)
        else:
            assert value == after[name], name
    assert not leftovers(other)


def assert_equal_tensors(one: Mapping[str, Tensor], other: Mapping[str, Tensor], what: str = "") -> None:
    assert one.keys() == other.keys(), what
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, f"{what} {name}"
        assert torch.equal(tensor, other[name]), f"{what} {name} differs"


def leftovers(directory: Path) -> list[Path]:
    """What was written aside and never put in its place."""
    return [path for path in directory.rglob(".*") if path.name.endswith((".partial", ".old"))]
