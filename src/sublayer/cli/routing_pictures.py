"""The pictures of a model's routing.

Shapes: L layers, E experts, D domains.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sublayer.measures.routing import LayerRouting, RoutingReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 8.6
"""Inches."""

MOST_LAYERS = 12
"""Layers in a picture that has a part for each; of more, some spread evenly."""

ANNOTATED = 16
"""Experts up to which cells have their number in them."""

OCTAVES = 2.0
"""How far colours go to each side of even: from a quarter to four times."""

EVEN, GREY, BLUE, RED = "#5b5b5b", "#d5d9de", "#3b6fb6", "#d1603d"


@contextmanager
def drawing() -> Iterator[None]:
    """The style of all pictures: text as text, and names without random parts, so that the same report draws the same
    file."""
    from matplotlib import rc_context

    with rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "sublayer", "font.family": "sans-serif", "font.size": 9.0}
    ):
        yield


def as_svg(figure: "Figure") -> str:
    """A picture as text."""
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": "sublayer"})
    return text.getvalue()


def draw_load(report: RoutingReport) -> "Figure":
    """Each expert's load over its even part, layer by layer."""
    layers = report.layers
    times_LE = _padded([np.array(layer.shares) * layer.n_experts for layer in layers])
    return _heat(times_LE, [f"layer {layer.label}" for layer in layers], "load over an even one", "expert")


def draw_domains(report: RoutingReport) -> "Figure":
    """Each expert's share of a domain over its share of all text."""
    rows, names = [], []
    for layer in pictured(report.layers):
        overall_E = np.maximum(np.array(layer.shares), 1e-12)
        for domain, share_E in zip(report.domains, layer.domains.share_DE, strict=True):
            rows.append(np.where(np.array(layer.load) > 0, share_E / overall_E, np.nan))
            names.append(f"layer {layer.label}, {domain}")
    figure = _heat(_padded(rows), names, "share of the domain over that of all text", "expert")
    for line in range(len(report.domains), len(rows), len(report.domains)):
        figure.axes[0].axhline(line - 0.5, color="white", linewidth=4)
    return figure


def draw_information(report: RoutingReport) -> "Figure":
    """Mutual information by layer, beside what shuffled labels give."""
    from matplotlib.figure import Figure

    by_domain = [layer.domains.information for layer in report.layers if layer.domains.information is not None]
    by_id = [layer.vocabulary.information for layer in report.layers]
    told = ({"expert and domain": by_domain} if by_domain else {}) | {"expert and token id": by_id}
    figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
    for axes, (name, known) in zip(np.atleast_1d(figure.subplots(1, len(told))), told.items(), strict=True):
        x = np.arange(len(known))
        low, high = (np.array([getattr(each, side) for each in known]) for side in ("low", "high"))
        axes.bar(
            x, high - low, bottom=low, width=0.8, color=GREY, edgecolor=EVEN, linewidth=0.6, label="shuffled, 95 %"
        )
        axes.plot(x, [each.nats for each in known], "o", color=BLUE, markersize=6, label="as it is")
        axes.set(title=name, ylabel="nats an assignment", xlabel="layer", xlim=(-0.6, len(known) - 0.4))
        axes.set_ylim(0, 1.4 * max(max(each.nats, each.high) for each in known) or 1)
        _layers_below(axes, [layer.label for layer in report.layers])
        _plain(axes)
        axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper right")
    return figure


def draw_coactivation(report: RoutingReport) -> "Figure | None":
    """How often two experts are together over independence; None where no token has two."""
    from matplotlib.figure import Figure

    layers = [layer for layer in pictured(report.layers) if layer.coactivation is not None]
    if not layers:
        return None
    columns = min(3, len(layers))
    rows = -(-len(layers) // columns)
    figure = Figure(figsize=(WIDTH, 0.5 + rows * (WIDTH / 3 + 0.1)), layout="constrained")
    grid = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    picture: Any = None
    for axes, layer in zip(grid, layers, strict=False):
        told = layer.coactivation
        assert told is not None
        with np.errstate(divide="ignore", invalid="ignore"):
            times_EE = np.where(told.expected_EE >= 5, told.count_EE / told.expected_EE, np.nan)
        picture = _cells(axes, times_EE)
        axes.set_title(f"layer {layer.label}", fontsize=9)
        axes.set_aspect("equal")
        _experts_below(axes, layer.n_experts)
        _annotate(axes, times_EE, told.share_EE * 100, "{:.0f}", most=8)
    for axes in grid[len(layers) :]:
        axes.set_visible(False)
    _key(figure, picture, list(grid[: len(layers)]), "together over independent")
    return figure


def draw_saturation(report: RoutingReport) -> "Figure | None":
    """Choices as at the end against steps; None where there is no earlier state."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    if not report.layers[0].saturation:
        return None
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = figure.add_subplot()
    colours = colormaps["viridis"](np.linspace(0.0, 0.85, len(report.layers)))
    for number, (layer, colour) in enumerate(zip(report.layers, colours, strict=True)):
        steps = [each.step for each in layer.saturation]
        share, chance = [each.share for each in layer.saturation], [each.chance for each in layer.saturation]
        last = [] if report.last_step is None else [report.last_step]
        named = len(report.layers) <= 10 or number in (0, len(report.layers) - 1)
        label = f"layer {layer.label}" if named else None
        axes.plot(steps + last, share + [1.0] * len(last), "o-", color=colour, markersize=4, linewidth=1.6, label=label)
        axes.plot(steps, chance, ":", color=colour, linewidth=1.2)
    axes.plot([], [], ":", color=EVEN, label="two random choices")
    axes.set(xlabel="step", ylabel="choices as at the end", ylim=(0, 1.04))
    axes.yaxis.set_major_formatter(lambda share, place: f"{share:.0%}")
    _plain(axes)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def draw_decode_steps(report: RoutingReport) -> "Figure | None":
    """Experts that a decoding step reads against texts at once; None where nothing decodes."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    layers = [layer for layer in report.layers if layer.decode_steps]
    if not layers:
        return None
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    axes = figure.add_subplot()
    colours = colormaps["viridis"](np.linspace(0.0, 0.85, len(layers)))
    for number, (layer, colour) in enumerate(zip(layers, colours, strict=True)):
        batches = [step.batch for step in layer.decode_steps]
        even = [step.even / layer.n_experts for step in layer.decode_steps]
        label = f"layer {layer.label}" if len(layers) <= 10 or number in (0, len(layers) - 1) else None
        read = [step.experts / layer.n_experts for step in layer.decode_steps]
        axes.plot(batches, read, "o-", color=colour, markersize=4, linewidth=1.6, label=label)
        axes.plot(batches, even, ":", color=EVEN, linewidth=1.2)
    axes.plot([], [], ":", color=EVEN, label="with an even load")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda batch, place: f"{batch:g}")
    axes.yaxis.set_major_formatter(lambda share, place: f"{share:.0%}")
    axes.set(xlabel="texts at once", ylabel="experts read", ylim=(0, 1.04))
    _plain(axes)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def pictured(layers: Sequence[LayerRouting]) -> list[LayerRouting]:
    """The layers that pictures with a part for each show."""
    if len(layers) <= MOST_LAYERS:
        return list(layers)
    return [layers[round(place)] for place in np.linspace(0, len(layers) - 1, MOST_LAYERS)]


def _padded(rows: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Rows of any length as one table, without a number where one ends earlier."""
    table = np.full((len(rows), max(len(row) for row in rows)), np.nan)
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return table


def _heat(times: NDArray[np.float64], names: Sequence[str], key: str, below: str) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 1.1 + 0.3 * len(times)), layout="constrained")
    axes = figure.add_subplot()
    picture = _cells(axes, times)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(below)
    axes.set_aspect("auto")
    _experts_below(axes, times.shape[1], both=False)
    _annotate(axes, times, times, "{:.2f}", most=ANNOTATED)
    _key(figure, picture, [axes], key)
    return figure


def _cells(axes: "Axes", times: NDArray[np.float64]) -> Any:
    """Cells in colours that tell how many times as much as even: white at once, and as far from it at half as at twice;
    grey where there is nothing to tell."""
    from matplotlib import colormaps

    with np.errstate(divide="ignore"):
        octaves = np.clip(np.log2(times), -OCTAVES, OCTAVES)
    colours = colormaps["RdBu_r"].with_extremes(bad=GREY)
    return axes.imshow(octaves, cmap=colours, vmin=-OCTAVES, vmax=OCTAVES, interpolation="nearest")


def _annotate(axes: "Axes", times: NDArray[np.float64], told: NDArray[np.float64], form: str, most: int) -> None:
    if times.shape[1] > most:
        return
    for (row, column), value in np.ndenumerate(times):
        if not np.isnan(value):
            far = value == 0 or abs(np.log2(value)) > 0.7 * OCTAVES
            text = form.format(told[row, column])
            axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color="white" if far else "#222222")


def _key(figure: "Figure", picture: Any, axes: Any, name: str) -> None:
    ticks = [-2, -1, 0, 1, 2]
    bar = figure.colorbar(picture, ax=axes, ticks=ticks, fraction=0.03, pad=0.02)
    bar.ax.set_yticklabels(["≤ ¼×", "½×", "1×", "2×", "≥ 4×"])
    bar.set_label(name, fontsize=8)
    bar.outline.set_visible(False)


def _experts_below(axes: "Axes", n_experts: int, both: bool = True) -> None:
    step = max(1, n_experts // 16)
    axes.set_xticks(range(0, n_experts, step))
    if both:
        axes.set_yticks(range(0, n_experts, step))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=8)


def _layers_below(axes: "Axes", labels: Sequence[str]) -> None:
    step = max(1, -(-len(labels) // 16))
    axes.set_xticks(range(0, len(labels), step), labels[::step])


def _plain(axes: "Axes") -> None:
    axes.grid(color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
