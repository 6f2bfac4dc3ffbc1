"""`sublayer train`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer


def train(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG.yaml] [key=value …]",
            help="A config, and values to change in it, such as `training.steps=200` or `model.position=alibi`.",
            show_default=False,
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Start from a config shipped with the package.", show_default="default")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory of the run.", show_default="runs/DATE-TIME-WORD"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out (without it, the newest below runs/).")
    ] = False,
) -> None:
    """Train a model; without arguments, a small one on Python's own standard library, in minutes on a laptop."""
    from rich.console import Console

    from sublayer.api import train as train_run
    from sublayer.cli.request import requested
    from sublayer.cli.summary import show_summary
    from sublayer.run import read_config
    from sublayer.run_directory import CONFIG, existing_directory, new_directory
    from sublayer.training import Bar, Lines, Stopped

    source, overrides = requested(arguments, preset)
    directory = existing_directory(out) if resume else new_directory(out)
    config = read_config(directory / CONFIG if source is None and resume else source, overrides)
    console = Console()
    watcher = Bar(console) if console.is_terminal else Lines(console)
    try:
        run = train_run(config, out=directory, resume=resume, watcher=watcher)
    except Stopped as stopped:
        command = f"sublayer train --resume --out {shlex.quote(str(directory))}"
        raise Stopped(f"{stopped} Go on with: {command}") from None
    show_summary(run, console)
