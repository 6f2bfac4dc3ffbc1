"""A hook for mkdocs that writes the tables of parts and options from the configs themselves, so that they stay true.

`<!-- options: PATH:CLASS -->` becomes the table of a config's keys; `<!-- parts: FAMILY -->` the parts of a family,
each with its options.
"""

import re
from importlib import import_module
from typing import Any

import sublayer.run  # registers every part
from sublayer.options import options
from sublayer.registry import PartConfig, Registry

_MARK = re.compile(r"<!-- (options|parts): (\S+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the tables of a page."""
    return _MARK.sub(lambda match: _TABLES[match[1]](match[2]), markdown)


def options_table(path: str) -> str:
    """The keys of a config class, `module:Class`."""
    module, _, name = path.partition(":")
    return _table(getattr(import_module(module), name))


def parts_of(family: str) -> str:
    """A section for each part of a family."""
    return "\n\n".join(_part(part) for part in Registry.families[family])


def _part(part: type[PartConfig]) -> str:
    lines = [f"### `{part.kind_name()}`", "", f"{part.summary()}."]
    if part.paper:
        lines += ["", f"*{part.paper}*"]
    if part.abilities():
        lines += ["", "For " + " · ".join(part.abilities())]
    if part.shorthands:
        lines += ["", "In short: " + ", ".join(f"`{name}`" for name in part.shorthands)]
    if options(part):
        lines += ["", _table(part)]
    return "\n".join(lines)


def _table(config: type) -> str:
    rows = ["| key | values | default | meaning |", "| --- | --- | --- | --- |"]
    for option in options(config):
        cells = (f"`{option.name}`", option.values, f"`{option.default}`" if option.default else "", option.meaning)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


_TABLES = {"options": options_table, "parts": parts_of}

assert sublayer.run.RunConfig  # the import above is what fills the registries
