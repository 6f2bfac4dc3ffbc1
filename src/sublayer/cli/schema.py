"""`sublayer schema`."""

from pathlib import Path
from typing import Annotated

import typer


def schema(
    out: Annotated[Path | None, typer.Option(help="Write it to this file.", show_default="printed")] = None,
    plugin: Annotated[list[Path] | None, typer.Option(help="A Python file that registers parts of your own.")] = None,
) -> None:
    """Publish the JSON schema of a config, with which an editor completes and checks YAML."""
    import json

    from sublayer.files import written_aside
    from sublayer.registry import load_plugin
    from sublayer.schema import run_schema

    for path in plugin or []:
        load_plugin(path)
    text = json.dumps(run_schema(), indent=2, ensure_ascii=False) + "\n"
    if out is None:
        print(text, end="")
        return
    with written_aside(out) as aside:
        aside.write_text(text, encoding="utf-8")
