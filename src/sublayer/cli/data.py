"""`sublayer data`."""

from typing import Annotated

import typer


def data(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG.yaml|DIR] [key=value …]",
            help="A config or the directory of a run, and values to change in it, such as `data.sequence_length=512`.",
            show_default=False,
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Start from a config shipped with the package.", show_default="default")
    ] = None,
    samples: Annotated[int, typer.Option(min=0, help="How many packed rows of the training to show.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Make data ready for training, and tell what it is made of.  Training then finds it in the cache."""
    import json

    from rich.console import Console

    from sublayer.cli.figures import show_figures, show_samples
    from sublayer.cli.request import requested
    from sublayer.data import prepare
    from sublayer.data.description import describe
    from sublayer.data.reading import warnings
    from sublayer.run import read_config
    from sublayer.training import Bar, Lines

    source, overrides = requested(arguments, preset)
    config = read_config(source, overrides)
    errors = Console(stderr=True)
    with Bar(errors) if errors.is_terminal else Lines(errors) as watcher:
        corpus = prepare(config.data, progress=watcher.preparing)
    n_samples = config.training.steps * config.training.batch_size
    description = describe(corpus, n_samples)
    if as_json:
        print(json.dumps(description.tree() | {"warnings": warnings(corpus, n_samples)}, indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False)
    show_figures(description, config.training.steps, warnings(corpus, n_samples), console)
    show_samples(corpus, config.training.seed, samples, console)
