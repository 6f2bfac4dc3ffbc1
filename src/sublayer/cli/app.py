"""The program: its verbs, and how it fails."""

import sys
from typing import Annotated

import typer

from sublayer.cli.generate import generate
from sublayer.cli.parts import parts
from sublayer.cli.train import train
from sublayer.errors import SublayerError
from sublayer.version import __version__

app = typer.Typer(
    name="sublayer",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(rich_help_panel="Models")(train)
app.command(rich_help_panel="Models")(generate)
app.command(rich_help_panel="Choices")(parts)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"sublayer {__version__}")
        raise typer.Exit


@app.callback()
def sublayer(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Build, train and use Transformers, every choice named in one config.

    Exit codes: 0 done, 1 failed while working, 2 the request was wrong.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    # Accepted in any place: whoever adds it does so at the end of the line that failed.
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        app(args=arguments)
    except SublayerError as error:
        if debug:
            raise
        _say(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _say("interrupted.")
        sys.exit(1)
    except MemoryError:
        if debug:
            raise
        _say("out of memory: lower training.batch_size, or raise training.accumulation.")
        sys.exit(1)
    except OSError as error:
        if debug:
            raise
        place = f"{error.filename}: " if error.filename else ""
        _say(f"{place}{error.strerror or error}.")
        sys.exit(1)


def _say(message: str) -> None:
    print(f"sublayer: {' '.join(message.split())}", file=sys.stderr)
