"""The portable model directory, by Hugging Face's conventions.

`config.json  model.safetensors  tokenizer.json  tokenizer_config.json  generation_config.json`.  A directory from
elsewhere is hostile until checked: nothing in it is run, and tensors are checked against the config before they
are read.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sublayer.checkpoint.tensors import read_tensors, write_tensors
from sublayer.data import Tokenizer
from sublayer.errors import CheckpointError, ConfigError
from sublayer.files import written_aside
from sublayer.model import ModelConfig, Transformer
from sublayer.model.experts.parallel import divided, full_state_dict
from sublayer.model.ghost import Unbuildable, ghost
from sublayer.model.head import ClassHeadConfig
from sublayer.version import __version__

CONFIG, WEIGHTS, GENERATION = "config.json", "model.safetensors", "generation_config.json"


def save_description(directory: Path, config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Write everything but the weights."""
    tokenizer.save(directory)
    _write_json(
        directory / CONFIG,
        {
            "model_type": "sublayer",
            "architectures": ["Transformer"],
            "sublayer_version": __version__,
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.max_length,
            "bos_token_id": tokenizer.end_id,
            "eos_token_id": tokenizer.end_id,
            **_names(config),
            "model": config.tree(),
        },
    )
    _write_json(
        directory / GENERATION,
        {"bos_token_id": tokenizer.end_id, "eos_token_id": tokenizer.end_id, "do_sample": True, "temperature": 0.8},
    )


def _names(config: ModelConfig) -> dict[str, Any]:
    """The names of the classes, as Hugging Face's libraries read them."""
    if not isinstance(config.head, ClassHeadConfig) or not config.head.classes:
        return {}
    classes = config.head.classes
    return {
        "id2label": {str(number): name for number, name in enumerate(classes)},
        "label2id": {name: number for number, name in enumerate(classes)},
    }


def save_weights(directory: Path, model: Transformer) -> None:
    """Write the weights, replacing at once and in whole those that are there.

    Of a model whose experts are divided among ranks, every rank calls it: the first one writes the weights of all, and
    the others wait for it.

    Raises:
        RunError: when the disk is full or the file cannot be written.
    """
    tensors = full_state_dict(model)
    ranks = bool(divided(model))
    try:
        if not ranks or dist.get_rank() == 0:
            write_tensors(directory / WEIGHTS, tensors)
    finally:
        if ranks:
            dist.barrier()


def save_model(directory: Path, model: Transformer, tokenizer: Tokenizer) -> None:
    """Write a whole model directory, replacing one that is there; by the first rank, as `save_weights` does.

    Raises:
        RunError: when the disk is full or the directory cannot be written.
    """
    if divided(model) and dist.get_rank() != 0:
        save_weights(directory, model)  # which only joins in
        return
    with written_aside(directory) as aside:
        aside.mkdir()
        save_description(aside, model.config, tokenizer)
        save_weights(aside, model)


def load_model(directory: Path, device: torch.device | str = "cpu") -> tuple[Transformer, Tokenizer]:
    """The model of a directory, in evaluation mode, and its tokenizer.

    Raises:
        CheckpointError: when the directory or a file in it is missing, damaged, or does not fit the rest.
        DataError: when the tokenizer is damaged.
    """
    config = load_config(directory)
    try:
        model = ghost(config)
    except Unbuildable as error:
        raise CheckpointError(f"{directory / CONFIG}: no such model can be built ({error.problem}).") from None
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tensors = load_weights(directory, expected)
    model.load_state_dict(tensors, assign=True)
    if any(buffer.is_meta for buffer in model.buffers()):  # of a user's part, which the file does not hold
        model = Transformer(config)
        model.load_state_dict(tensors)
    tokenizer = Tokenizer.load(directory)
    if config.vocab_size is not None and tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{directory}: the tokenizer has {tokenizer.vocab_size} tokens, but the model only {config.vocab_size}; "
            "they do not belong together."
        )
    return model.to(device).eval(), tokenizer


def load_weights(directory: Path, expected: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, Tensor]:
    """The weights of a directory, on the CPU.

    Args:
        directory: of a model.
        expected: names and shapes that they must have, checked before anything is read.

    Raises:
        CheckpointError: when they are missing, damaged, others than expected, or no floating-point numbers.
    """
    tensors = read_tensors(directory / WEIGHTS, expected)
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise CheckpointError(
                f"{directory / WEIGHTS}: '{name}' holds {str(tensor.dtype).removeprefix('torch.')} where a model needs "
                "floating-point numbers; export it again without quantisation."
            )
    return tensors


def load_config(directory: Path) -> ModelConfig:
    """The model config of a directory.

    Raises:
        CheckpointError: when it is missing, damaged or not sublayer's.
    """
    if not directory.is_dir():
        raise CheckpointError(f"there is no directory {directory}; name one that `sublayer train` wrote.")
    path = directory / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{directory} holds no {CONFIG}, so it is no model directory.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); copy it again from where it was whole.") from None
    if not isinstance(values, dict) or values.get("model_type") != "sublayer":
        found = values.get("model_type") if isinstance(values, dict) else type(values).__name__
        raise CheckpointError(f"{path}: model_type is {found!r}, and only 'sublayer' can be loaded.")
    try:
        return ModelConfig.parse(values.get("model"))
    except ConfigError as error:
        own = " A part of your own has to be named again (--plugin FILE, or sublayer.register)."
        raise CheckpointError(f"{path}: {error}{own if 'choose from' in str(error) else ''}") from None


def _write_json(path: Path, values: dict[str, Any]) -> None:
    with written_aside(path) as aside:
        aside.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
