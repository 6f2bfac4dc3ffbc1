"""The loss curve of a run, as a picture."""

from collections.abc import Mapping
from io import StringIO
from pathlib import Path

from sublayer.files import written_aside
from sublayer.training.journal import METRICS, read

COLOURS = ("#3b6fb6", "#d1603d", "#4f9d69", "#8e5ea2", "#c9a227", "#5b5b5b")


def draw_curve(
    directory: Path, path: Path, baselines: Mapping[str, float] | None = None, reader: str = "bigram model"
) -> None:
    """Draw the losses in `directory/metrics.jsonl` as an SVG.

    Args:
        directory: of the run.
        path: of the picture.
        baselines: nats a token of a baseline by held-out domain, drawn as dashed lines.
        reader: what the baseline is called.

    Raises:
        RunError: when the picture cannot be written.
    """
    # The object interface only: pyplot would choose a window system.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    training: list[tuple[int, float]] = []
    held_out: dict[str, list[tuple[int, float]]] = {}
    for line in read(directory / METRICS):
        if "loss" in line:
            training.append((line["step"], line["loss"]))
        for domain, figures in line.get("held_out", {}).items():
            held_out.setdefault(domain, []).append((line["step"], figures["loss"]))

    # Text as text, and names without random parts: the same run draws the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "sublayer", "font.family": "sans-serif"}):
        figure = Figure(figsize=(7.2, 4.0), layout="constrained")
        axes = figure.add_subplot()
        if training:
            axes.plot(*zip(*training, strict=True), color="#b8bec8", linewidth=1.2, label="training")
        for (domain, points), colour in zip(held_out.items(), COLOURS * (1 + len(held_out)), strict=False):
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=2, marker="o", markersize=4, label=domain)
            if baselines and domain in baselines:
                axes.axhline(
                    baselines[domain], color=colour, linewidth=1.2, linestyle="--", label=f"{domain}, {reader}"
                )
        axes.set(xlabel="step", ylabel="loss (nats a token)")
        axes.grid(color="#e6e8eb", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": "sublayer"})
    with written_aside(path) as aside:
        aside.write_text(text.getvalue(), encoding="utf-8")
