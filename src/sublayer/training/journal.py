"""The metrics logger of a run: `metrics.jsonl`, TensorBoard and Weights & Biases, each step once.

`metrics.jsonl` holds what follows from the config alone, so that it is the same file for a run broken and resumed as
for one never stopped.  What the clock says (`seconds`, `tokens_per_second`) stands in `timing.jsonl`.
"""

import json
import math
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from sublayer.errors import ConfigError, RunError
from sublayer.files import explain, written_aside
from sublayer.training.config import LoggingConfig

METRICS, TIMING, BOARD = "metrics.jsonl", "timing.jsonl", "tensorboard"


class Journal:
    """Writes the figures of a run, going on from a step.

    Args:
        directory: of the run.
        config: where figures go.
        step: what is written of later steps is cut away first (0: all of it).

    Raises:
        ConfigError: when wandb is asked for and not installed.
        RunError: when the directory cannot be written.
    """

    def __init__(self, directory: Path, config: LoggingConfig, step: int) -> None:
        self._directory = directory
        self._files: dict[str, TextIO] = {}
        wandb = installed(config)
        try:
            for name in (METRICS, TIMING):
                cut_back(directory / name, step)
                self._files[name] = (directory / name).open("a", encoding="utf-8")
            self._board = self._tensorboard() if config.tensorboard else None
        except OSError as error:
            raise RunError(explain(error, directory)) from error
        self._wandb = self._wandb_run(wandb, config.wandb) if wandb is not None else None

    def write(self, step: int, figures: Mapping[str, Any], *, timing: Mapping[str, Any] | None = None) -> None:
        """Record figures of a step (numbers, or mappings of names to numbers), and what the clock said.

        Raises:
            RunError: when the disk is full.
        """
        for name, values in ((METRICS, figures), (TIMING, timing)):
            if values:
                self._append(name, {"step": step, **values})
        flat = {**_flat(figures), **_flat(timing or {})}
        if self._board is not None:
            try:
                for name, value in flat.items():
                    self._board.add_scalar(name, value, step)
            except OSError as error:
                raise RunError(explain(error, self._directory / BOARD)) from error
        if self._wandb is not None:
            self._wandb.log(flat, step=step)

    def _append(self, name: str, values: Mapping[str, Any]) -> None:
        try:
            self._files[name].write(json.dumps(_finite(values), allow_nan=False) + "\n")
            self._files[name].flush()
        except OSError as error:
            raise RunError(explain(error, self._directory / name)) from error

    def close(self) -> None:
        """Flush and close everything, also where closing one of them fails.

        Raises:
            RunError: when the disk is full.
        """
        try:
            with ExitStack() as each:
                for file in self._files.values():
                    each.callback(file.close)
                if self._board is not None:
                    each.callback(self._board.close)
                if self._wandb is not None:
                    each.callback(self._wandb.finish)
        except OSError as error:
            raise RunError(explain(error, self._directory)) from error

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except RunError:
            if kind is None:  # or else what ended the run is told, which closing only met again
                raise

    def _tensorboard(self) -> Any:
        """A writer into a fresh folder, with the figures kept so far written again: event files cannot be cut back."""
        from torch.utils.tensorboard import SummaryWriter

        folder = self._directory / BOARD
        shutil.rmtree(folder, ignore_errors=True)
        board = SummaryWriter(str(folder))
        for name in (METRICS, TIMING):
            for line in read(self._directory / name):
                step = line.pop("step")
                for key, value in _flat(line).items():
                    board.add_scalar(key, value, step)
        return board

    def _wandb_run(self, wandb: ModuleType, project: str | None) -> Any:
        # An id of its own, kept in the directory: a run of the same name elsewhere, or later, is another run.
        known = self._directory / "wandb-id"
        if not known.is_file():
            known.write_text(uuid.uuid4().hex, encoding="utf-8")
        name = self._directory.resolve().name
        identity = known.read_text(encoding="utf-8")
        return wandb.init(project=project, name=name, id=identity, dir=str(self._directory), resume="allow")


def installed(config: LoggingConfig) -> ModuleType | None:
    """The package wandb, where it is asked for.

    Raises:
        ConfigError: when it is not installed.
    """
    if config.wandb is None:
        return None
    try:
        return import_module("wandb")
    except ImportError:
        raise ConfigError(
            "training.logging.wandb: the package wandb is not installed; pip install 'sublayer[wandb]' or leave the "
            "key out."
        ) from None


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a figures file; a last line cut off half-way is passed over."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                yield json.loads(line)
            except ValueError:
                return


def cut_back(path: Path, step: int) -> None:
    """Remove the lines of a figures file behind `step`, and a last one cut off half-way.

    Raises:
        RunError: when it cannot be written.
    """
    if path.is_file():
        kept = [line for line in read(path) if line["step"] <= step]
        with written_aside(path) as aside:
            aside.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")


def _flat(figures: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}/"))
        elif isinstance(value, int | float) and math.isfinite(value):
            flat[prefix + name] = float(value)
    return flat


def _finite(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The same with null for what is no finite number: JSON has no word for that."""
    return {
        name: _finite(value)
        if isinstance(value, Mapping)
        else None
        if isinstance(value, float) and not math.isfinite(value)
        else value
        for name, value in figures.items()
    }
