"""`sublayer classify`."""

import json as json_format
from typing import Annotated

import typer

from sublayer.cli.opened import Device, Directory, Dtype, Plugins


def classify(
    directory: Directory,
    texts: Annotated[list[str], typer.Argument(metavar="TEXT …", help="What to tell the class of.")],
    second: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="The second text of a pair, for a model that learnt from pairs; as often as there are texts.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The probabilities of all classes, as JSON.")] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    plugin: Plugins = None,
) -> None:
    """Let a trained classifier tell the class of texts, or of pairs of texts."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from sublayer.api import classify as classify_texts
    from sublayer.cli.opened import check_names, opened
    from sublayer.errors import ConfigError

    if second and len(second) != len(texts):
        raise ConfigError(
            f"--second: there are {len(second)} for {len(texts)} texts; give one for each, in their order."
        )
    check_names(device, dtype)
    model, tokenizer = opened(directory, device, dtype, plugin)
    found = classify_texts(model, tokenizer, list(zip(texts, second, strict=True)) if second else texts)
    if json:
        rows = [
            {"text": one.text}
            | ({} if one.second is None else {"second": one.second})
            | {"class": one.name, "probabilities": dict(one.probabilities)}
            for one in found
        ]
        print(json_format.dumps(rows, indent=2, ensure_ascii=False))
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    table.add_column("probability", justify="right")
    table.add_column("text", overflow="ellipsis", no_wrap=True)
    if second:
        table.add_column("second text", overflow="ellipsis", no_wrap=True)
    for one in found:
        given = [Text(" ".join(text.split())) for text in (one.text, one.second) if text is not None]
        table.add_row(Text(one.name), f"{one.probabilities[one.name]:.1%}", *given)
    Console().print(table)
