"""`sublayer routing`."""

import json as json_format
from pathlib import Path
from typing import Annotated

import typer

from sublayer.cli.opened import Device, Directory, Dtype, Plugins


def routing(
    directory: Directory,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A file or folder of text to read, a domain of its own; may be given several times.",
            show_default="the run's own held-out text",
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(help="Tokens read of each domain, spread evenly over it.")] = 16384,
    json: Annotated[
        bool, typer.Option("--json", help="Print all figures as one JSON object; a page is written with --out only.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Where to write the page of pictures.", show_default="DIR/routing.html"),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    plugin: Plugins = None,
) -> None:
    """Tell which experts a model's tokens go to: load, specialisation, experts together, saturation."""
    from rich.console import Console

    from sublayer.api import routing as routing_of
    from sublayer.cli.opened import check_names
    from sublayer.cli.routing_figures import show_routing
    from sublayer.cli.routing_page import write_page
    from sublayer.errors import ConfigError
    from sublayer.registry import load_plugin
    from sublayer.training import Bar, Lines
    from sublayer.training.device import choose_device

    check_names(device, dtype)
    if out is not None and out.is_dir():
        raise ConfigError(f"--out: {out} is a directory; name a file in it, such as {out / 'routing.html'}.")
    for path in plugin or []:
        load_plugin(path)
    errors = Console(stderr=True)
    with Bar(errors) if errors.is_terminal else Lines(errors) as watcher:
        told = routing_of(
            directory,
            text or (),
            tokens=tokens,
            device=choose_device(device),  # type: ignore[arg-type]
            dtype=dtype,  # type: ignore[arg-type]
            watcher=watcher,
        )
    page = out or (None if json else directory / "routing.html")
    if page is not None:
        write_page(told, str(directory), page)
    if json:
        print(json_format.dumps(told.tree(), indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False)
    show_routing(told, console)
    console.print()
    console.print(f"pictures: {page}", style="dim", markup=False, soft_wrap=True)
