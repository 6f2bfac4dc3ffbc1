"""How experts were used at the end of training, as a table by layer."""

from pathlib import Path

from rich.table import Table
from rich.text import Text

from sublayer.training.journal import METRICS, read


def experts_table(directory: Path) -> Table | None:
    """The last figures of routing in a run's `metrics.jsonl`; None where there are no experts."""
    routing = None
    for line in read(directory / METRICS):
        routing = line.get("routing", routing)
    if not routing:
        return None
    n_tokens = max(layer["tokens"] for layer in routing.values())
    table = Table(
        title=f"experts over the last {n_tokens:,} tokens of training (a load of 1 is even)",
        title_justify="left",
        title_style="bold",
        box=None,
        padding=(0, 2, 0, 0),
    )
    dropped = any("dropped" in layer for layer in routing.values())
    table.add_column("layer", no_wrap=True)
    for column in ("least", "most", "MaxVio", "chance", "entropy", "dead", *["dropped"] * dropped):
        table.add_column(column, justify="right")
    for name, layer in routing.items():
        load = [len(layer["load"]) * share for share in layer["load"]]
        entropy, floor = layer.get("entropy_share"), layer["floor"]
        cells = [
            f"{min(load):.2f}",
            f"{max(load):.2f}",
            f"{layer['max_vio']:.2f}",
            "" if floor is None else f"{floor:.2f}",
            "" if entropy is None else f"{entropy:.0%}",
            f"{layer['dead']} of {len(load)}",
        ]
        if dropped:
            cells.append(f"{layer['dropped']:.1%}" if "dropped" in layer else "")
        table.add_row(Text(name), *cells)
    return table
