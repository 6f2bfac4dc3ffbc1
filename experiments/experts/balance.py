"""Collapse without a balance, and the balances side by side: loss against how even the load is."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sublayer.measures.load import entropy, entropy_share

from .arithmetic import interval
from .desk import Desk, Finished, Variant
from .study import Figures, Study, colour, machine, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BALANCE = "model.feed_forward.balance"
PARTS = {"training.accumulation": 4}
"""Micro-batches of 1,024 tokens, so that the balance of each and that of the whole step are not the same."""


def balanced(name: str, *balances: Mapping[str, Any], **changes: Any) -> Variant:
    """A variant of experts.yaml with these balances."""
    return Variant(f"balance-{name}", changes={BALANCE: list(balances), **changes})


NONE = balanced("none")
LOAD = balanced("load-0.01", {"kind": "load", "weight": 0.01})
LOSS_FREE = balanced("loss-free-0.001", {"kind": "loss_free", "rate": 0.001})

VARIANTS = (
    NONE,
    balanced("load-0.001", {"kind": "load", "weight": 0.001}),
    LOAD,
    balanced("load-0.1", {"kind": "load", "weight": 0.1}),
    balanced("load-0.01-micro-batch", {"kind": "load", "weight": 0.01}, **PARTS),
    balanced("load-0.01-global", {"kind": "load", "weight": 0.01, "scope": "global_batch"}, **PARTS),
    balanced("load-0.01-sequence", {"kind": "load", "weight": 0.01, "scope": "sequence"}),
    balanced("importance-0.01", {"kind": "importance", "weight": 0.01}),
    balanced("z-loss", {"kind": "z_loss"}),
    LOSS_FREE,
    balanced("loss-free-0.01", {"kind": "loss_free", "rate": 0.01}),
    balanced("load-0.01-z-loss", {"kind": "load", "weight": 0.01}, {"kind": "z_loss"}),
)


def usage(run: Finished) -> dict[str, Any]:
    """How experts are used in the last quarter of a run, over layers and logged lines.

    `max_vio` is the mean, and `worst` that of the worse layer; `dead` and `starving` are the means of how many of a
    layer's experts got no token, and less than a hundredth of an even share, between two lines; `load_entropy` and
    `token_entropy` are shares of ln E.
    """
    layers = run.settled()
    n_layers = len(run.routing()[-1][1])
    loads = [layer["load"] for layer in layers]
    told = {
        "loss": run.loss,
        "max_vio": statistics.fmean(layer["max_vio"] for layer in layers),
        "worst": max(statistics.fmean(layer["max_vio"] for layer in layers[n::n_layers]) for n in range(n_layers)),
        "floor": statistics.fmean(layer["floor"] for layer in layers),
        "dead": statistics.fmean(layer["dead"] for layer in layers),
        "starving": statistics.fmean(sum(share * len(load) < 0.01 for share in load) for load in loads),
        "load_entropy": statistics.fmean(entropy_share(entropy(load), len(load)) for load in loads),
        "token_entropy": statistics.fmean(layer["entropy_share"] for layer in layers),
    }
    assert all(math.isfinite(value) for value in told.values())
    return told


def used(runs: Mapping[str, Sequence[Finished]]) -> dict[str, Any]:
    """Of each variant with runs, the figures of every seed, and the interval of the loss."""
    return {
        name.removeprefix("balance-"): {
            "seeds": [usage(run) for run in found],
            "loss": interval([run.loss for run in found]).tree,
            "paths": [max_vio_path(run) for run in found],
        }
        for name, found in runs.items()
        if found
    }


def max_vio_path(run: Finished) -> list[tuple[int, float]]:
    """Step and mean MaxVio of the layers."""
    return [(step, statistics.fmean(layer["max_vio"] for layer in layers.values())) for step, layers in run.routing()]


def measure(desk: Desk) -> Figures:
    runs = desk.in_turn(VARIANTS, STUDY.seeds)
    every = [run for found in runs.values() for run in found]
    experts = every[0].config.model.resolve()[0].feed_forward.tree() if every else {}
    return {
        "experts": {name: experts.get(name) for name in ("n_experts", "top_k")},
        "variants": used(runs),
        "machine": machine(every),
    }


HEADER = (
    "",
    "seeds",
    "held-out loss",
    "MaxVio",
    "worse layer",
    "floor",
    "dead",
    "starving",
    "entropy of the load",
    "of a token",
)


def row(name: str, told: Mapping[str, Any]) -> list[str]:
    """Of the table; the means over seeds."""
    mean = {key: statistics.fmean(seed[key] for seed in told["seeds"]) for key in told["seeds"][0]}
    losses = [seed["loss"] for seed in told["seeds"]]
    return [
        name,
        str(len(losses)),
        interval(losses).told(),
        f"{mean['max_vio']:.2f}",
        f"{mean['worst']:.2f}",
        f"{mean['floor']:.3f}",
        f"{mean['dead']:.2f}",
        f"{mean['starving']:.2f}",
        f"{mean['load_entropy']:.1%}",
        f"{mean['token_entropy']:.1%}",
    ]


def tables(figures: Figures) -> list[str]:
    rows = [row(name, told) for name, told in figures["variants"].items()]
    return [table(HEADER, rows), figures["machine"]]


def draw(figures: Figures, figure: "Figure") -> None:
    left, right = figure.subplots(1, 2)
    floors = []
    for number, (name, told) in enumerate(figures["variants"].items()):
        points = [(seed["max_vio"], seed["loss"]) for seed in told["seeds"]]
        floors += [seed["floor"] for seed in told["seeds"]]
        marker = "os^Dv*"[number // 6]
        left.plot(*zip(*points, strict=True), linestyle="", marker=marker, color=colour(number), label=name)
        right.plot(*zip(*told["paths"][0], strict=True), color=colour(number), linewidth=1, marker=marker, markevery=8)
    for line in (left.axvline, right.axhline):
        if floors:
            line(statistics.fmean(floors), color="#5b5b5b", linewidth=1, linestyle="--")
    left.set(
        xlabel="MaxVio in the last quarter (dashed: by chance)", ylabel="held-out loss (nats a token)", xscale="log"
    )
    right.set(xlabel="step", ylabel="MaxVio", yscale="log")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)


STUDY = Study(
    "balance",
    "collapse without a balance, and each balance: loss against MaxVio",
    minutes=15,
    seeds=1,
    measure=measure,
    tables=tables,
    draw=draw,
    size=(9.0, 5.0),
)
