"""The model that a command line names, and the options of reading it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sublayer.data import Tokenizer
    from sublayer.model import Transformer

PANEL = "Model"

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="A run, or any model directory.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", rich_help_panel=PANEL)]
Dtype = Annotated[
    str,
    typer.Option(
        help="Of the weights: auto, float32 or bfloat16; auto is bfloat16 where that is fast.", rich_help_panel=PANEL
    ),
]
Plugins = Annotated[
    list[Path] | None, typer.Option(help="A Python file that registers parts of your own.", rich_help_panel=PANEL)
]


def check_names(device: str, dtype: str) -> None:
    """Refuse a device or dtype that there is not.

    Raises:
        ConfigError: when there is none of that name.
    """
    from typing import get_args

    from sublayer.config import suggest
    from sublayer.errors import ConfigError
    from sublayer.training.device import DeviceName, DtypeName

    for option, value, known in (("device", device, DeviceName), ("dtype", dtype, DtypeName)):
        if value not in get_args(known):
            raise ConfigError(f"--{option}: there is no '{value}'; {suggest(value, list(get_args(known)))}.")


def opened(
    directory: Path, device: str, dtype: str, plugins: Sequence[Path] | None
) -> tuple["Transformer", "Tokenizer"]:
    """The model and tokenizer of a directory, after `check_names`.

    Raises:
        CheckpointError, DataError: as `load`.
    """
    from sublayer.api import load
    from sublayer.registry import load_plugin
    from sublayer.training.device import choose_device

    for path in plugins or []:
        load_plugin(path)
    return load(directory, choose_device(device), dtype)  # type: ignore[arg-type]
