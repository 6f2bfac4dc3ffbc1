"""What a model directory says of how its text is drawn: `generation_config.json`, as Hugging Face models carry."""

from pathlib import Path
from typing import Any

from sublayer.checkpoint.model_directory import GENERATION
from sublayer.errors import CheckpointError, ConfigError
from sublayer.files import json_mapping
from sublayer.generation.config import DRAWING, SEARCHING, GenerationConfig

NAMES = {
    "max_new_tokens": "max_tokens",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "num_beams": "beams",
    "length_penalty": "length_penalty",
    "early_stopping": "early_stopping",
}
"""Its names, and ours; everything else in it is left to others."""


def generation_config(directory: Path, **options: Any) -> GenerationConfig:
    """How text is drawn from the model of a directory.

    Args:
        directory: of a model; without a `generation_config.json` in it, our own defaults hold.
        options: fields of GenerationConfig, over those of the file.

    Raises:
        CheckpointError: when the file is damaged.
        ConfigError: when an option is refused.
    """
    path = directory / GENERATION
    if not path.is_file():
        return GenerationConfig(**options)
    try:
        found = json_mapping(path)
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}); copy it anew, or delete it.") from None
    values = {ours: found[theirs] for theirs, ours in NAMES.items() if found.get(theirs) is not None}
    if values.get("top_k") == 0:  # there, no limit
        del values["top_k"]
    if found.get("do_sample") is False:
        values["temperature"] = 0.0
    searches = values.get("beams", 1) != 1 and found.get("do_sample") is not True
    try:
        GenerationConfig(**_of_one_way(values, searches))
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if "beams" in options:
        searches = options["beams"] != 1
    elif any(name in options for name in DRAWING):
        searches = False
    return GenerationConfig(**_of_one_way(values, searches) | options)


def _of_one_way(values: dict[str, Any], searches: bool) -> dict[str, Any]:
    """Those of beams or those of drawing: Hugging Face's files often hold both, of which one has no effect."""
    other = DRAWING if searches else ("beams", *SEARCHING)
    return {name: value for name, value in values.items() if name not in other}
