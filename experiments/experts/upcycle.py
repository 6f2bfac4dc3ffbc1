"""A dense model upcycled, beside experts from scratch, and beside itself trained on."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sublayer.api import load
from sublayer.checkpoint import save_model
from sublayer.files import written_aside
from sublayer.model.cost import cost
from sublayer.model.experts.upcycle import upcycled, upcycled_config
from sublayer.model.ghost import ghost

from .arithmetic import interval
from .dense import BASE, told
from .desk import DENSE, Desk, Finished, Variant
from .study import Figures, Study, colour, machine, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N_EXPERTS, TOP_K = 8, 2
MORE = 0.5
"""Steps that it is trained on for, over those of the dense run."""
OTHER_TEXT = 1000
"""Added to the seed of what is trained on, which would otherwise read the same text in the same order again."""

NAMES = {
    "upcycled": "upcycled, trained on",
    "dense-on": "dense, trained on",
    "scratch": "from scratch, as many further tokens",
    "scratch-long": "from scratch, as many tokens in all",
}


def measure(desk: Desk) -> Figures:
    runs: dict[str, list[Finished]] = {"dense": [], **{name: [] for name in NAMES}}
    further = max(1, round(MORE * desk.steps))
    for seed in range(desk.seeds or STUDY.seeds):
        dense = desk.run(BASE, seed)
        if dense is None:
            continue
        runs["dense"].append(dense)
        grown = upcycled_at(dense, desk)
        for name, variant in variants(desk, dense.directory, grown, further).items():
            run = desk.run(variant, seed + (OTHER_TEXT if variant.start is not None else 0))
            if run is not None:
                runs[name].append(run)
    figures: dict[str, Any] = {
        "models": {name: figures_of(name, found, runs["dense"]) for name, found in runs.items() if found},
        "differences": {},
        "machine": machine([run for found in runs.values() for run in found]),
    }
    for other in ("dense-on", "scratch", "scratch-long"):
        by_seed = {run.config.training.seed % OTHER_TEXT: run for run in runs[other]}
        pairs = [
            run.loss - by_seed[run.config.training.seed % OTHER_TEXT].loss
            for run in runs["upcycled"]
            if run.config.training.seed % OTHER_TEXT in by_seed
        ]
        if pairs:
            figures["differences"][other] = interval(pairs).tree
    return figures


def upcycled_at(dense: Finished, desk: Desk) -> Path:
    """The dense run's last weights as a model with experts, as `sublayer upcycle` makes it."""
    seed = dense.config.training.seed
    out = desk.out / "upcycled-start" / f"seed-{seed}"
    if not out.is_dir() and not desk.only_read:
        model, tokenizer = load(dense.directory)
        grown = upcycled(model, N_EXPERTS, TOP_K, seed=seed)
        with written_aside(out) as aside:
            save_model(aside, grown, tokenizer)
    return out


def variants(desk: Desk, dense: Path, grown: Path, further: int) -> dict[str, Variant]:
    """What is set side by side; from scratch, the same model as the upcycled one."""
    on = {"training.steps": further}
    config = upcycled_config(desk.config(BASE, 0).model, N_EXPERTS, TOP_K, 1)
    same = {"model.feed_forward": config.tree()["feed_forward"]}
    return {
        "upcycled": Variant("upcycled", DENSE, on, start=grown),
        "dense-on": Variant("dense-on", DENSE, on, start=dense),
        "scratch": Variant("upcycle-scratch", DENSE, {**same, **on}),
        "scratch-long": Variant("upcycle-scratch-long", DENSE, {**same, "training.steps": desk.steps + further}),
    }


def figures_of(name: str, runs: Sequence[Finished], dense: Sequence[Finished]) -> dict[str, Any]:
    """Of the runs of a variant, which may go on from the dense ones."""
    config = runs[0].config
    counted = cost(ghost(config.model))
    before, begun = 0, {}
    if config.training.init_from is not None:
        # What they go on from has read, and cost, something too; and their curves begin with its last loss.
        before = dense[0].tokens
        begun = {run.config.training.seed + OTHER_TEXT: [(0, run.curve[-1][1])] for run in dense}
    curves = [[*begun.get(run.config.training.seed, []), *run.curve] for run in runs]
    return {
        "parameters": counted.parameters.total,
        "active": counted.parameters.active,
        "flops": counted.training_flops(config.data.sequence_length, "visible"),
        "tokens": runs[0].tokens,
        "before": before,
        "loss": interval([run.loss for run in runs]).tree,
        "losses": [run.loss for run in runs],
        "curves": [[(before + tokens, loss) for tokens, loss in curve] for curve in curves],
    }


def tables(figures: Figures) -> list[str]:
    models = figures["models"]
    a_token = models["dense"]["flops"] if models else 0.0
    rows = [
        [
            NAMES.get(name, "dense, where it starts"),
            f"{one['parameters']:,}",
            f"{one['active']:,}",
            f"{one['tokens'] / 1e6:.2f}",
            f"{(one['tokens'] + one['before']) / 1e6:.2f}",
            f"{(one['tokens'] * one['flops'] + one['before'] * a_token) / 1e12:.1f}",
            str(len(one["losses"])),
            told(one["loss"]),
            told(figures["differences"][name], "+.3f") if name in figures["differences"] else "",
        ]
        for name, one in models.items()
    ]
    header = (
        "",
        "parameters",
        "active",
        "M tokens",
        "with those before",
        "TFLOPs in all",
        "seeds",
        "held-out loss",
        "upcycled less it",
    )
    return [table(header, rows), figures["machine"]]


def draw(figures: Figures, figure: "Figure") -> None:
    axes = figure.subplots()
    for number, (name, one) in enumerate(figures["models"].items()):
        for seed, curve in enumerate(one["curves"]):
            tokens, losses = zip(*curve, strict=True)
            label = NAMES.get(name, "dense, where it starts") if seed == 0 else None
            axes.plot([each / 1e6 for each in tokens], losses, color=colour(number), linewidth=1.2, label=label)
    lowest = min((curve[-1][1] for one in figures["models"].values() for curve in one["curves"]), default=0.0)
    axes.set(
        xlabel="million tokens, those of the dense model included",
        ylabel="held-out loss (nats a token)",
        ylim=(lowest - 0.05, lowest + 1.5),
    )
    axes.legend(frameon=False)


STUDY = Study(
    "upcycle",
    "upcycled against from scratch at equal tokens, and the dense model trained on",
    minutes=15,
    seeds=3,
    measure=measure,
    tables=tables,
    draw=draw,
    size=(7.2, 4.2),
)
