"""The resumable training state: torch.distributed.checkpoint with a safetensors payload and JSON metadata.

`checkpoints/step-00000500/` is written aside and renamed, so it is whole or not there.  The default metadata of
torch.distributed.checkpoint is a pickle; the safetensors writer has none, and no pickle is ever read.
"""

import hashlib
import json
import logging
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors
from torch.distributed.checkpoint.state_dict_saver import save as save_tensors

from sublayer.checkpoint.tensors import digest, separate
from sublayer.errors import CheckpointError
from sublayer.files import remove, remove_leftovers, written_aside
from sublayer.model.names import below

FORMAT = 1
METADATA = "state.json"
MODEL = "model."
"""What the names of a model's weights begin with in a state."""

_NAME = re.compile(r"step-(\d{8,})")


def save_state(folder: Path, step: int, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], keep: int) -> Path:
    """Write the state after `step` steps and delete all but the last `keep` states.

    Raises:
        RunError: when the disk is full or the folder cannot be written; earlier states are intact.
    """
    target = folder / f"step-{step:08d}"
    tensors = separate({name: tensor.detach() for name, tensor in tensors.items()})
    with written_aside(target) as aside, _quiet():
        try:
            save_tensors(tensors, storage_writer=HuggingFaceStorageWriter(str(aside)), no_dist=True)
        except (Exception, CheckpointException) as error:  # the library wraps whatever it met; its own is no Exception
            cause = _cause(error)
            if cause is None:
                raise
            raise cause from error
        values = {"format": FORMAT, "step": step, **metadata}
        values["digest"] = _digest(tensors, values)
        (aside / METADATA).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    for _, old in states(folder)[:-keep]:
        remove(old)
    return target


def states(folder: Path) -> list[tuple[int, Path]]:
    """The states in `folder` by step, rising."""
    if not folder.is_dir():
        return []
    found = [(match, path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted((int(match[1]), path) for match, path in found)


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The last state in `folder`: its tensors (on the CPU) and metadata; None when there is none.

    Raises:
        CheckpointError: when it is damaged.
    """
    remove_leftovers(folder)
    found = states(folder)
    if not found:
        return None
    before = f"delete it to resume from step {found[-2][0]}" if len(found) > 1 else "start the run anew"
    return _read(found[-1][1], before)


def load_model_state(path: Path) -> dict[str, Tensor]:
    """The model's weights in one of the `states`, on the CPU, by the names that they have in the model.

    Raises:
        CheckpointError: when the state is damaged.
    """
    tensors, _ = _read(path, "delete it to leave it out")
    return below(MODEL, tensors)


def _read(path: Path, advice: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and metadata of a state.

    Raises:
        CheckpointError: when it is damaged; with `advice`, which says what to do.
    """
    try:
        metadata = json.loads((path / METADATA).read_text(encoding="utf-8"))
        if metadata["format"] != FORMAT:
            raise CheckpointError(f"{path} has format {metadata['format']}, and this version reads {FORMAT}.")
        reader = HuggingFaceStorageReader(str(path))
        described = reader.read_metadata().state_dict_metadata
        tensors = {
            name: torch.empty(entry.size, dtype=entry.properties.dtype)
            for name, entry in described.items()
            if isinstance(entry, TensorStorageMetadata)
        }
        with _quiet():
            load_tensors(tensors, storage_reader=reader, no_dist=True)
        damage = "" if _digest(tensors, metadata) == metadata["digest"] else "its digest differs"
        if path.name != f"step-{metadata['step']:08d}":
            damage = f"it is of step {metadata['step']}"
    except CheckpointError:
        raise
    except KeyError as error:
        damage = f"it lacks {error}"
    except (Exception, CheckpointException) as error:  # whatever a library makes of a file that it did not write
        damage = (str(error).strip() or type(error).__name__).splitlines()[-1].rstrip(".")
    if damage:
        raise CheckpointError(f"the checkpoint {path} is damaged ({damage}); {advice}.")
    return tensors, metadata


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """SHA-256 over the tensors and what is written beside them."""
    text = json.dumps({key: value for key, value in metadata.items() if key != "digest"}, sort_keys=True)
    return hashlib.sha256(f"{digest(tensors)} {text}".encode()).hexdigest()


def _cause(error: BaseException | None) -> OSError | KeyboardInterrupt | None:
    """The operating system's refusal, or a person's interruption, behind a failed save."""
    if isinstance(error, CheckpointException):
        return next((cause for failure in error.failures.values() if (cause := _cause(failure[0]))), None)
    while error is not None:
        if isinstance(error, OSError | KeyboardInterrupt):
            return error
        error = error.__cause__ or error.__context__
    return None


class _quiet(warnings.catch_warnings):
    """Without the library's notes that a single process saves without torch.distributed."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")
        logging.getLogger("torch.distributed.checkpoint").setLevel(logging.ERROR)
