"""`sublayer upcycle`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from sublayer.cli.opened import Plugins


def upcycle(
    dense: Annotated[Path, typer.Argument(metavar="DENSE_DIR", help="A run, or any model directory, without experts.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where the model with experts goes; it must not exist.")],
    experts: Annotated[int, typer.Option(min=1, help="Copies of each feed-forward.")] = 8,
    top_k: Annotated[int, typer.Option(min=1, help="Copies that compute a token.")] = 2,
    granularity: Annotated[int, typer.Option(min=1, help="Experts that each copy is cut into.")] = 1,
    first_dense: Annotated[int, typer.Option(min=0, help="First layers that stay dense.")] = 0,
    every: Annotated[int, typer.Option(min=1, help="Behind those, every n-th layer gets experts.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the routers' initial values.")] = 0,
    plugin: Plugins = None,
) -> None:
    """Make a trained dense model one with experts, which computes the same and then learns on.

    Train it on with a config's data and training: `sublayer train CONFIG 'model={}' training.init_from=OUT`.
    """
    from rich.console import Console

    from sublayer.api import load
    from sublayer.checkpoint import save_model
    from sublayer.errors import ConfigError
    from sublayer.model.cost import cost
    from sublayer.model.experts.upcycle import upcycled
    from sublayer.registry import load_plugin

    if out.exists():
        raise ConfigError(f"{out} exists already; name a directory that does not.")
    for path in plugin or []:
        load_plugin(path)
    model, tokenizer = load(dense)
    try:
        grown = upcycled(model, experts, top_k, granularity, first_dense=first_dense, every=every, seed=seed)
    except ConfigError as error:
        raise ConfigError(f"{dense} cannot be upcycled so: {error}") from None
    save_model(out, grown, tokenizer)
    before, after = cost(model).parameters, cost(grown).parameters
    console = Console()
    console.print(
        f"{out}: {after.total:,} parameters, {after.active:,} of them active for a token "
        f"({dense}: {before.total:,}). It computes what the dense model does; to train it on:",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    config = dense / "config.yaml"
    source = f"{shlex.quote(str(config))} 'model={{}}' " if config.is_file() else ""
    command = f"  sublayer train {source}{shlex.quote(f'training.init_from={out}')}"
    console.print(command, highlight=False, markup=False, soft_wrap=True)
