"""`sublayer check`."""

from pathlib import Path
from typing import Annotated

import typer


def check(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG.yaml|DIR] [key=value …]",
            help="A config, or the directory of a run or model, and values to change in it.",
            show_default=False,
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Check a config shipped with the package.", show_default="default")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Run a few steps, to tell the speed on this machine as well.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Tell for each layer what decoding keeps, and whether it is exact.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
    plugin: Annotated[list[Path] | None, typer.Option(help="A Python file that registers parts of your own.")] = None,
) -> None:
    """Tell what a config costs before it is paid: parameters, FLOPs, kernels, memory.  Reads no data."""
    import json

    from rich.console import Console

    from sublayer.cli.costs import explain_decoding, show_costs
    from sublayer.cli.request import requested
    from sublayer.preflight.report import checked
    from sublayer.preflight.subject import subject_of
    from sublayer.registry import load_plugin

    source, overrides = requested(arguments, preset)
    for path in plugin or []:
        load_plugin(path)
    told = checked(subject_of(source, overrides), measure)
    if as_json:
        print(json.dumps(told.tree(), indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False)
    show_costs(told, console)
    if explain:
        explain_decoding(told, console)
