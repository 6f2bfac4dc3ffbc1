"""The program: its verbs, and how it fails."""

import sys
import traceback
from typing import Annotated

import typer

from sublayer.cli.check import check
from sublayer.cli.classify import classify
from sublayer.cli.data import data
from sublayer.cli.fill import fill
from sublayer.cli.generate import generate
from sublayer.cli.parts import parts
from sublayer.cli.routing import routing
from sublayer.cli.schema import schema
from sublayer.cli.train import train
from sublayer.cli.upcycle import upcycle
from sublayer.errors import SublayerError
from sublayer.version import __version__

INTERRUPTED = 130
"""What typer returns when Ctrl-C was pressed."""

OUT_OF_MEMORY = ("OutOfMemoryError", "can't allocate memory", "not enough memory")
"""How torch says it: it has an error of its own on a GPU, and a RuntimeError like any other on a CPU."""

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
app.command(rich_help_panel="Models")(classify)
app.command(rich_help_panel="Models")(fill)
app.command(rich_help_panel="Models")(routing)
app.command(rich_help_panel="Models")(upcycle)
app.command(rich_help_panel="Choices")(check)
app.command(rich_help_panel="Choices")(parts)
app.command(rich_help_panel="Choices")(schema)
app.command(rich_help_panel="Data")(data)


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
        code = app(args=arguments or ["--help"], standalone_mode=False)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted.")
        sys.exit(1)
    except Exception as error:
        told = _told(error)
        if told is None:
            raise
        if debug:
            traceback.print_exc()
        _say(told[0])
        sys.exit(told[1])
    sys.exit(code or 0)


def _told(error: Exception) -> tuple[str, int] | None:
    """What a person is told of an error, and the exit code; None for one that nobody should meet."""
    if isinstance(error, SublayerError):
        return str(error), error.exit_code
    if hasattr(error, "format_message"):  # of a wrong option or argument
        command = getattr(getattr(error, "ctx", None), "command_path", "sublayer")
        return f"{error.format_message().rstrip('.')}; see {command} --help.", 2
    if isinstance(error, MemoryError) or any(sign in f"{type(error).__name__} {error}" for sign in OUT_OF_MEMORY):
        return "out of memory: lower training.batch_size, or raise training.accumulation.", 1
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}.", 1
    return None


def _say(message: str) -> None:
    print(f"sublayer: {' '.join(message.split())}", file=sys.stderr)
