"""How the load of experts went over training, as a picture: a panel for each layer."""

import math
from io import StringIO
from pathlib import Path

from sublayer.files import written_aside
from sublayer.training.journal import METRICS, read

MOST_PANELS = 12
"""Layers that are drawn; of more, so many spread evenly over the stack, the first and the last among them."""

COLUMNS = 3


def draw_heat_map(directory: Path, path: Path) -> None:
    """Draw the loads in `directory/metrics.jsonl` as an SVG; nothing where there are no experts.

    Args:
        directory: of the run.
        path: of the picture.

    Raises:
        RunError: when the picture cannot be written.
    """
    steps: dict[str, list[int]] = {}
    loads: dict[str, list[list[float]]] = {}
    for line in read(directory / METRICS):
        for layer, figures in line.get("routing", {}).items():
            steps.setdefault(layer, []).append(line["step"])
            loads.setdefault(layer, []).append([len(figures["load"]) * share for share in figures["load"]])
    if not steps:
        return
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    layers = _spread(list(steps))
    n_columns = min(COLUMNS, len(layers))
    n_rows = math.ceil(len(layers) / n_columns)
    # As in the loss curve: text as text, and the same run draws the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "sublayer", "font.family": "sans-serif"}):
        figure = Figure(figsize=(1.2 + 3.2 * n_columns, 0.6 + 2.2 * n_rows), layout="constrained")
        panels = figure.subplots(n_rows, n_columns, squeeze=False).flatten()
        for panel, layer in zip(panels, layers, strict=False):
            by_expert = list(zip(*loads[layer], strict=True))
            image = panel.pcolormesh(
                _edges(steps[layer]),
                [expert - 0.5 for expert in range(len(by_expert) + 1)],
                by_expert,
                cmap="RdBu_r",
                vmin=0.0,
                vmax=2.0,
                rasterized=True,
            )
            panel.set_title(layer, fontsize=9)
            panel.set(xlabel="step", ylabel="expert", ylim=(len(by_expert) - 0.5, -0.5))
            panel.yaxis.get_major_locator().set_params(integer=True)
        for panel in panels[len(layers) :]:
            panel.set_visible(False)
        figure.colorbar(image, ax=list(panels), label="load (1 is even)", extend="max")
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": "sublayer"})
    with written_aside(path) as aside:
        aside.write_text(text.getvalue(), encoding="utf-8")


def _spread(layers: list[str]) -> list[str]:
    if len(layers) <= MOST_PANELS:
        return layers
    return [layers[round(number * (len(layers) - 1) / (MOST_PANELS - 1))] for number in range(MOST_PANELS)]


def _edges(steps: list[int]) -> list[int]:
    """Each line is of the steps since the one before, the first of those since the beginning."""
    return [0, *steps]
