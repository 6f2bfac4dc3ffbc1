"""Training that starts from the weights of a model that is there already."""

import json
from pathlib import Path
from typing import Any

from sublayer.checkpoint import load_config, load_weights
from sublayer.data import Tokenizer
from sublayer.errors import CheckpointError, DataError
from sublayer.model import Transformer


def check_vocabulary(init_from: str, tokenizer: Tokenizer) -> None:
    """Refuse weights whose tokens mean something else.

    Args:
        init_from: a model directory.
        tokenizer: of the data.

    Raises:
        CheckpointError: when the directory's tokenizer is another one, or cannot be read.
    """
    directory = Path(init_from).expanduser()
    try:
        theirs = Tokenizer.load(directory)
    except DataError as error:
        raise CheckpointError(f"training.init_from: {error}") from None
    if not tokenizer.same_vocabulary(theirs):
        raise CheckpointError(
            f"training.init_from: the tokenizer of {directory} ({theirs.vocab_size} tokens) is not that of the data "
            f"({tokenizer.vocab_size} tokens), so its weights would read other words; leave data.tokenizer out to take "
            "the model's."
        )


HEAD = "head."
"""What the names of a head's weights begin with."""


def start_from(init_from: str, model: Transformer) -> str:
    """Give a model the weights of a directory; a head of another kind than theirs, or for other classes, keeps its own.

    A classifier starts so from a model that predicts tokens, or tells other classes.

    Args:
        init_from: a model directory.
        model: on any device; changed in place.

    Returns:
        What a person should know of it; empty when all weights are taken.

    Raises:
        CheckpointError: when the weights are missing or damaged, or one of them has another shape here.
    """
    directory = Path(init_from).expanduser()
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    try:
        tensors = load_weights(directory)
        theirs = load_config(directory).tree()
    except CheckpointError as error:
        raise CheckpointError(f"training.init_from: {error}") from None
    ours, kept = model.config.tree(), {}
    another = _another(theirs["head"], ours["head"])
    if another:
        kept = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(HEAD)}
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(HEAD)} | kept
    for name in dict.fromkeys([*expected, *sorted(tensors)]):
        found = tuple(tensors[name].shape) if name in tensors else None
        wanted = expected.get(name)
        if found != wanted:
            raise CheckpointError(
                f"training.init_from: '{name}' {_has(found)} in {directory}, and here it {_has(wanted)}; "
                f"{_advice(theirs, ours)}."
            )
    model.load_state_dict(tensors)
    if not another:
        return ""
    fresh = sum(tensor.numel() for tensor in kept.values())
    return f"starting from {directory}, but for the head, which is {another}: its {fresh:,} numbers are new."


def _another(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """In what a head is another one, so that their weights mean nothing in ours; empty when they do."""
    if theirs["kind"] != ours["kind"]:
        return "of another kind"
    told = "classes" if theirs.get("classes") else "n_classes"  # without names, as many are taken for the same
    return "" if theirs.get(told) == ours.get(told) else "for other classes"


def _has(shape: tuple[int, ...] | None) -> str:
    return "is missing" if shape is None else f"has shape {list(shape)}"


def _advice(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """What to change: the first choice in which the two models differ."""
    differing = [key for key in theirs if theirs[key] != ours.get(key) and key not in ("dropout", "initialisation")]
    if not differing:  # a part of the user's own that changed since
        return "it was trained with other code"
    key, others = differing[0], len(differing) - 1
    more = f" (and {others} more choice{'s' if others > 1 else ''})" if others else ""
    simple = not isinstance(theirs[key], dict | list)
    value = f"model.{key} to {json.dumps(theirs[key])}" if simple else f"model.{key} as it was"
    return f"set {value}{more}, or leave model out to take that model's"
