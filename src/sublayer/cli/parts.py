"""`sublayer parts`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sublayer.registry import PartConfig, Registry


def parts(
    name: Annotated[
        str | None, typer.Argument(metavar="[KIND]", help="A family such as position, or a kind such as rope.")
    ] = None,
    plugin: Annotated[list[Path] | None, typer.Option(help="A Python file that registers parts of your own.")] = None,
) -> None:
    """List every choice, its paper, what it can do, and its options."""
    from rich.console import Console
    from rich.table import Table

    import sublayer.run  # noqa: F401  (registers every part)
    from sublayer.config import suggest
    from sublayer.errors import ConfigError
    from sublayer.options import options
    from sublayer.registry import Registry, load_plugin

    for path in plugin or []:
        load_plugin(path)
    # The model's first, as they are what most come for; within a room as they were registered.
    families = dict(sorted(Registry.families.items(), key=lambda family: not _of_the_model(family[1])))
    console = Console(highlight=False)
    kinds = [part for registry in families.values() for part in registry if part.kind_name() == name]
    if name is None or name in families:
        for family, registry in families.items():
            if name not in (None, family):
                continue
            table = Table(title=family, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
            able = any(part.abilities() for part in registry)
            for column in ("kind", "what it is", "source", *(["abilities"] if able else [])):
                table.add_column(column, style="bold" if column == "kind" else "", header_style="dim")
            for part in registry:
                table.add_row(part.kind_name(), part.summary(), part.paper, *([_abilities(part)] if able else []))
            console.print(table)
            console.print()
        return
    if not kinds:
        known = [*families, *(part.kind_name() for registry in families.values() for part in registry)]
        raise ConfigError(f"'{name}' is no family and no kind; {suggest(name, list(dict.fromkeys(known)))}.")
    for part in kinds:
        console.print(f"[bold]{part.registry.family}: {part.kind_name()}[/bold]  {part.summary()}")
        if part.paper:
            console.print(part.paper, style="dim")
        if part.abilities():
            console.print(_abilities(part))
        if part.shorthands:
            console.print(f"in short: {', '.join(part.shorthands)}")
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("option", "values", "default", "meaning"):
            table.add_column(column, style="bold" if column == "option" else "", header_style="dim")
        for option in options(part):
            table.add_row(option.name, option.values, option.default, option.meaning)
        console.print(table)
        console.print()


def _of_the_model(registry: "Registry[Any]") -> bool:
    from sublayer.model.part import ModelPart

    return all(issubclass(part, ModelPart) for part in registry)


def _abilities(part: "type[PartConfig]") -> str:
    return "; ".join(part.abilities())
