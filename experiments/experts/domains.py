"""Whether experts specialise in code or prose, layer by layer: mutual information beside shuffled labels."""

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sublayer.api import routing
from sublayer.files import json_mapping

from .dense import EIGHT, MANY
from .desk import Desk, Finished, Variant, saved
from .study import Figures, Study, colour, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROUTING = "routing.json"


def untrained(variant: Variant) -> Variant:
    """The same after a single step: what a router's initial values make of domains, which have other words."""
    return Variant(f"{variant.name}-untrained", variant.source, {**variant.changes, "training.steps": 1})


def routed(run: Finished, desk: Desk) -> Mapping[str, Any] | None:
    """What `sublayer routing --json` tells of a run, measured once."""
    path = run.directory / ROUTING
    if not path.is_file():
        if desk.only_read:
            desk.missing.append(str(path))
            return None
        saved(path, routing(run.directory).tree())
    return json_mapping(path)


def measure(desk: Desk) -> Figures:
    figures = {}
    for variant in (EIGHT, MANY):
        trained = desk.in_turn([variant, untrained(variant)], STUDY.seeds)
        told = {
            name: [tree for run in found if (tree := routed(run, desk)) is not None] for name, found in trained.items()
        }
        if all(told.values()):
            figures[variant.name] = {
                "layers": layers(told[variant.name]),
                "untrained": layers(told[untrained(variant).name]),
            }
    return figures


def layers(seeds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each layer, over seeds: the means of information and baseline, and the worst p."""
    found = []
    for number, layer in enumerate(seeds[0]["layers"]):
        each = [seed["layers"][number]["domains"] for seed in seeds]
        informations = [one["information"] for one in each]
        found.append(
            {
                "layer": layer["layer"],
                "nats": [one["nats"] for one in informations],
                "share": [one["share"] for one in informations],
                "baseline": [one["baseline"]["mean"] for one in informations],
                "high": [one["baseline"]["high"] for one in informations],
                "p": max(one["p"] for one in informations),
                "above": sum(one["above_baseline"] for one in informations),
                "shuffled_over": each[0]["shuffled_over"],
                "experts": each[0]["share"],
            }
        )
    return found


def tables(figures: Figures) -> list[str]:
    rows = []
    for name, told in figures.items():
        for state, some in (("trained", told["layers"]), ("after one step", told["untrained"])):
            for layer in some:
                mean = {key: statistics.fmean(layer[key]) for key in ("nats", "share", "baseline", "high")}
                rows.append(
                    [
                        f"{name}, {layer['layer'].removesuffix('.feed_forward')}, {state}",
                        f"{mean['nats']:.4f}",
                        f"{min(layer['nats']):.4f} … {max(layer['nats']):.4f}",
                        f"{mean['share']:.1%}",
                        f"{mean['baseline']:.4f}",
                        f"{mean['high']:.4f}",
                        f"{layer['p']:.3f}",
                        f"{layer['above']} of {len(layer['nats'])}",
                    ]
                )
    header = ("", "nats", "range over seeds", "of most", "shuffled", "their 97.5 %", "largest p", "above chance")
    units = {
        f"{layer['shuffled_over']['units']} {layer['shuffled_over']['unit']}s"
        for told in figures.values()
        for layer in told["layers"]
    }
    return [table(header, rows), f"Labels are shuffled over {' or '.join(sorted(units))}."]


def draw(figures: Figures, figure: "Figure") -> None:
    panels = figure.subplots(1, max(1, len(figures)), squeeze=False)[0]
    for panel, (name, told) in zip(panels, figures.items(), strict=False):
        places = range(len(told["layers"]))
        bars = (("trained", "layers", "nats"), ("after one step", "untrained", "nats"), ("shuffled", "layers", "high"))
        for number, (label, state, key) in enumerate(bars):
            values = [statistics.fmean(layer[key]) for layer in told[state]]
            at = [place + 0.27 * (number - 1) for place in places]
            panel.bar(at, values, 0.25, color=colour(number), label=label)
        names = [layer["layer"].removesuffix(".feed_forward") for layer in told["layers"]]
        panel.set_xticks(list(places), names)
        panel.set(title=name, ylabel="nats about the domain")
    if figures:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)


STUDY = Study(
    "domains",
    "specialisation by domain: mutual information of experts with code and prose, by layer",
    minutes=3,
    seeds=3,
    measure=measure,
    tables=tables,
    draw=draw,
    size=(8.0, 3.6),
)
