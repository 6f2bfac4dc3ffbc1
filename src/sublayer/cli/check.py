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
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
    plugin: Annotated[list[Path] | None, typer.Option(help="A Python file that registers parts of your own.")] = None,
) -> None:
    """Tell what a config costs before it is paid: parameters, FLOPs, kernels, memory.  Reads no data."""
    import json

    from rich.console import Console

    from sublayer.cli.costs import show_costs
    from sublayer.errors import ConfigError
    from sublayer.preflight.report import checked
    from sublayer.preflight.subject import subject_of
    from sublayer.registry import load_plugin
    from sublayer.run import is_override, read_preset

    overrides = [argument for argument in arguments or [] if is_override(argument)]
    given = [argument for argument in arguments or [] if not is_override(argument)]
    if len(given) > 1:
        raise ConfigError(f"'{given[1]}' is one config too many; give one YAML file, then key=value pairs.")
    if given and preset:
        raise ConfigError(f"--preset: give either a preset or the config {given[0]}, not both.")
    for path in plugin or []:
        load_plugin(path)
    told = checked(subject_of(given[0] if given else read_preset(preset) if preset else None, overrides), measure)
    if as_json:
        print(json.dumps(told.tree(), indent=2, ensure_ascii=False))
        return
    show_costs(told, Console(highlight=False))
