"""Expert dropout, hidden dropout inside experts and noisy gating, each with and without a balance."""

from typing import TYPE_CHECKING, Any

from .balance import HEADER, LOAD, LOSS_FREE, NONE, row, used
from .desk import Desk, Variant
from .study import Figures, Study, colour, machine, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BALANCES = {"no balance": NONE, "load": LOAD, "loss_free": LOSS_FREE}

MEANS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "expert dropout 0.1": {"model.feed_forward.expert_dropout": 0.1},
    "hidden dropout 0.1": {"model.feed_forward.expert.dropout": 0.1},
    # The scoring of the router that it is set beside, so that the noise alone is another.
    "noisy gating": {"model.feed_forward.router": {"kind": "noisy_top_k", "scoring": "softmax"}},
}


def variants() -> dict[tuple[str, str], Variant]:
    """By means and balance; those of nothing but a balance are the ones of the study of balances."""
    found = {}
    for means, changes in MEANS.items():
        for balance, base in BALANCES.items():
            words = f"{means} {base.name.removeprefix('balance-')}".replace(" ", "-")
            name = base.name if not changes else f"dropout-{words}"
            found[means, balance] = Variant(name, changes={**base.changes, **changes})
    return found


def measure(desk: Desk) -> Figures:
    every = variants()
    runs = desk.in_turn(list(every.values()), STUDY.seeds)
    told = {f"{means}, {balance}": runs[variant.name] for (means, balance), variant in every.items()}
    return {"variants": used(told), "machine": machine([run for found in runs.values() for run in found])}


def tables(figures: Figures) -> list[str]:
    rows = [row(name, told) for name, told in figures["variants"].items()]
    return [table(HEADER, rows), figures["machine"]]


def draw(figures: Figures, figure: "Figure") -> None:
    panels = figure.subplots(1, len(BALANCES), sharey=True)
    for panel, balance in zip(panels, BALANCES, strict=True):
        for number, means in enumerate(MEANS):
            told = figures["variants"].get(f"{means}, {balance}")
            for seed, path in enumerate(told["paths"] if told else ()):
                label = means if seed == 0 else None
                panel.plot(*zip(*path, strict=True), color=colour(number), linewidth=1, label=label)
        panel.set(xlabel="step", title=balance, yscale="log")
    panels[0].set_ylabel("MaxVio")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)


STUDY = Study(
    "dropout",
    "expert dropout, hidden dropout and noisy gating, with and without a balance",
    minutes=15,
    seeds=1,
    measure=measure,
    tables=tables,
    draw=draw,
    size=(9.0, 3.8),
)
