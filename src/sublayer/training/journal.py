"""The figures of a run: `metrics.jsonl`, TensorBoard and Weights & Biases, each step once.

`metrics.jsonl` holds what follows from the config alone, so that it is the same file for a run broken and resumed as
for one never stopped.  What the clock says (`seconds`, `tokens_per_second`) stands in `timing.jsonl`.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from sublayer.errors import ConfigError, RunError
from sublayer.files import explain, written_aside
from sublayer.training.config import LoggingConfig

METRICS, TIMING = "metrics.jsonl", "timing.jsonl"


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
        for name in (METRICS, TIMING):
            cut_back(directory / name, step)
            self._files[name] = (directory / name).open("a", encoding="utf-8")
        self._board = self._tensorboard() if config.tensorboard else None
        self._wandb = self._wandb_run(config.wandb) if config.wandb else None

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
            for name, value in flat.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(flat, step=step)

    def _append(self, name: str, values: Mapping[str, Any]) -> None:
        try:
            self._files[name].write(json.dumps(values) + "\n")
            self._files[name].flush()
        except OSError as error:
            raise RunError(explain(error, self._directory / name)) from error

    def close(self) -> None:
        """Flush and close everything."""
        for file in self._files.values():
            file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tensorboard(self) -> Any:
        """A writer into a fresh folder, with the figures kept so far written again: event files cannot be cut back."""
        from torch.utils.tensorboard import SummaryWriter

        folder = self._directory / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)
        board = SummaryWriter(str(folder))
        for name in (METRICS, TIMING):
            for line in read(self._directory / name):
                step = line.pop("step")
                for key, value in _flat(line).items():
                    board.add_scalar(key, value, step)
        return board

    def _wandb_run(self, project: str) -> Any:
        try:
            import wandb  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            raise ConfigError(
                "training.logging.wandb: the package wandb is not installed; pip install 'sublayer[wandb]' or leave "
                "the key out."
            ) from None
        name = self._directory.name
        return wandb.init(project=project, name=name, id=name, dir=str(self._directory), resume="allow")


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
        elif isinstance(value, int | float):
            flat[prefix + name] = float(value)
    return flat
