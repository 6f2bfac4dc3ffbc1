"""`sublayer fill`."""

from typing import Annotated

import typer

from sublayer.cli.opened import Device, Directory, Dtype, Plugins


def fill(
    directory: Directory,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="A text, with [MASK] for each token that is left out.")],
    n_best: Annotated[int, typer.Option(min=1, help="Show this many tokens for each gap.")] = 5,
    device: Device = "auto",
    dtype: Dtype = "auto",
    plugin: Plugins = None,
) -> None:
    """Let an encoder that was trained on masked tokens fill the gaps of a text."""
    from rich.console import Console

    from sublayer.api import fill_masks
    from sublayer.cli.opened import check_names, opened

    check_names(device, dtype)
    model, tokenizer = opened(directory, device, dtype, plugin)
    filled = fill_masks(model, tokenizer, text, n_best)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(filled.text, style="bold")
    for number, guesses in enumerate(filled.gaps):
        shown = " · ".join(f"{guess.text!r} {guess.probability:.1%}" for guess in guesses)
        console.print(f"{number + 1}: {shown}")
