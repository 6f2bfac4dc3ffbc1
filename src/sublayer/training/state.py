"""Everything that training would have to know to go on as if it had never stopped."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from sublayer.checkpoint import load_state, save_state
from sublayer.checkpoint.training_state import MODEL
from sublayer.data import DataConfig
from sublayer.errors import CheckpointError, ConfigError
from sublayer.model import ModelConfig
from sublayer.model.names import below
from sublayer.training.config import TrainingConfig
from sublayer.training.generators import generators, restore_generators
from sublayer.training.optimizer import Optimizer

FREE_KEYS = (
    "device",  # the device and the dtype that follow are compared themselves
    "dtype",
    "training.steps",
    "training.evaluate_every",
    "training.evaluation_tokens",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "training.baselines",
    "training.logging",
)
"""What may change when a run is resumed."""


@dataclass
class Progress:
    """Where a run stands, and what its rounding depends on.

    Attributes:
        step: optimizer steps done, skipped ones counted in.
        skipped: steps skipped for a loss or gradient that was not finite.
        skipped_in_a_row: how many of these were the last ones.
        best_loss, best_step: the lowest held-out loss so far, and where.
        threads, cores: how many threads compute shares of a step, and how many of torch's own work in each; 0 before
            they are chosen.  A resumed run keeps them, since other sums are rounded otherwise.
        device, dtype: where the run was computed, and in what.
        routing: what a record of the experts' use goes on from.
    """

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    best_loss: float | None = None
    best_step: int = 0
    threads: int = 0
    cores: int = 0
    device: str = ""
    dtype: str = ""
    routing: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoints:
    """The training states of a run.

    Args:
        folder: where they are.
        identity: the run's whole config; a state of another config is refused.
        data: the fingerprint of its data, likewise.
        keep: how many are kept.
    """

    folder: Path
    identity: Mapping[str, Any]
    data: str
    keep: int

    def save(self, progress: Progress, model: nn.Module, optimizer: Optimizer) -> None:
        """Write the state after `progress.step` steps.

        Raises:
            RunError: when the disk is full; earlier states are intact.
        """
        tensors = {f"{MODEL}{name}": tensor for name, tensor in model.state_dict().items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer.state().items()}
        tensors |= {f"rng.{name}": tensor for name, tensor in generators().items()}
        metadata = {"progress": vars(progress), "data": self.data, "config": self.identity}
        save_state(self.folder, progress.step, tensors, metadata, self.keep)

    def restore(self, model: nn.Module, optimizer: Optimizer) -> Progress:
        """Put the last state back; a run without one starts at step 0.

        Raises:
            CheckpointError: when the state is damaged, or belongs to another config or other data.
        """
        loaded = load_state(self.folder)
        if loaded is None:
            return Progress()
        tensors, metadata = loaded
        self._refuse_changes(metadata)
        try:
            model.load_state_dict(below(MODEL, tensors))
        except RuntimeError as error:  # a part of the user's own that changed since
            problem = str(error).splitlines()[-1].strip().rstrip(".")
            raise CheckpointError(
                f"the state in {self.folder} does not fit the model ({problem}); bring the old plug-in back, or train "
                "into another directory."
            ) from None
        optimizer.load(below("optimizer.", tensors))
        restore_generators(below("rng.", tensors))
        return Progress(**metadata["progress"])

    def _refuse_changes(self, metadata: Mapping[str, Any]) -> None:
        changed = differences(with_defaults(metadata["config"]), self.identity)
        if changed:
            key, before, now = changed[0]
            more = f" ({len(changed) - 1} more such)" if len(changed) > 1 else ""
            raise CheckpointError(
                f"{key} is {now!r}, but the run in {self.folder.parent} was started with {before!r}{more}; "
                "resume with what it was started with, or train into another directory."
            )
        if metadata["data"] != self.data:
            raise CheckpointError(
                f"the data of the run in {self.folder.parent} changed since it was started (its fingerprint was "
                f"{metadata['data'][:12]}…, now {self.data[:12]}…); bring the old files back, or train into another "
                "directory."
            )


def with_defaults(identity: Mapping[str, Any]) -> dict[str, Any]:
    """A stored config with today's defaults for the options that came after it: a run of an older version goes on.

    Args:
        identity: the tree of a run's config.  What today's version cannot read in it stays as it is, and so differs.
    """
    filled = dict(identity)
    for room, config in (("model", ModelConfig), ("data", DataConfig), ("training", TrainingConfig)):
        with suppress(ConfigError):
            filled[room] = config.parse(identity.get(room)).tree()
    return filled


def differences(before: Any, now: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """The keys, those in FREE_KEYS left out, in which two trees of plain values differ: (key, before, now)."""
    if key in FREE_KEYS:
        return []
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        found = []
        for name in dict.fromkeys([*before, *now]):
            found += differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
        return found
    return [] if before == now else [(key, before, now)]
