"""Experts against dense models of as many active parameters, as many parameters in all, and as much time."""

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sublayer.model.cost import cost
from sublayer.model.experts.mixture import ExpertsConfig
from sublayer.model.ghost import ghost
from sublayer.run import read_config

from .arithmetic import ALPHA, POWER, detectable, interval, loss_at, ratio_interval, tokens_to_loss
from .desk import CONFIG, DENSE, Desk, Finished, Variant
from .study import Figures, Study, colour, machine, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASE = Variant("dense", DENSE)
EIGHT = Variant("experts-8")
MANY = Variant("experts-32", changes={"model.feed_forward.n_experts": 32})
EXPERTS = (EIGHT, MANY)


def wide(desk: Desk) -> Variant:
    """A dense model whose feed-forward has as many hidden units as all of eight experts together."""
    layer = desk.config(EIGHT, 0).model.resolve()[0].feed_forward
    assert isinstance(layer, ExpertsConfig)
    d_ff = layer.n_experts * layer.expert.tree()["d_ff"]
    return Variant("dense-equal-total", DENSE, {"model.feed_forward.d_ff": d_ff})


def longer(desk: Desk, dense: Sequence[Finished], experts: Sequence[Finished]) -> Variant | None:
    """A dense run of as many steps as take the time of the run with eight experts; None until both are there.

    The steps follow from measured times, so those of a run that was begun hold for the others.
    """
    name = "dense-equal-time"
    begun = sorted((desk.out / name).glob(f"seed-*/{CONFIG}"))
    if begun:
        steps = read_config(begun[0]).training.steps
    elif dense and experts and not desk.only_read:
        times = [one.step_seconds / other.step_seconds for one, other in zip(experts, dense, strict=True)]
        steps = max(1, round(desk.steps * statistics.median(times)))
    else:
        return None
    return Variant(name, DENSE, {"training.steps": steps})


def measure(desk: Desk) -> Figures:
    variants = [BASE, EIGHT, MANY, wide(desk)]
    runs = desk.in_turn(variants, STUDY.seeds)
    timed = longer(desk, runs[BASE.name], runs[EIGHT.name])
    if timed is not None:
        runs[timed.name] = desk.runs(timed, STUDY.seeds)
    runs = {name: found for name, found in runs.items() if found}
    figures: dict[str, Any] = {
        "models": {name: model_figures(found) for name, found in runs.items()},
        "against": {},
        "machine": machine([run for found in runs.values() for run in found]),
    }
    for experts in EXPERTS:
        for other in runs:
            if other not in (EIGHT.name, MANY.name):
                pairs = in_pairs(runs.get(experts.name, []), runs[other])
                if pairs:
                    figures["against"][f"{experts.name} against {other}"] = against(pairs)
    return figures


def in_pairs(ones: Sequence[Finished], others: Sequence[Finished]) -> list[tuple[Finished, Finished]]:
    """Runs of the same seed, which read the same text in the same order."""
    by_seed = {run.config.training.seed: run for run in others}
    return [(run, by_seed[run.config.training.seed]) for run in ones if run.config.training.seed in by_seed]


def model_figures(runs: Sequence[Finished]) -> dict[str, Any]:
    """Of the runs of a variant."""
    config = runs[0].config
    told = cost(ghost(config.model))
    domains = runs[0].losses
    return {
        "parameters": told.parameters.total,
        "active": told.parameters.active,
        "flops": told.training_flops(config.data.sequence_length, "visible"),
        "tokens": runs[0].tokens,
        "loss": interval([run.loss for run in runs]).tree,
        "losses": [run.loss for run in runs],
        "domains": {name: interval([run.losses[name] for run in runs]).tree for name in domains},
        "step_seconds": [run.step_seconds for run in runs],
        "seconds": [run.seconds for run in runs],
        "curves": [run.curve for run in runs],
        "decay": tokens_before_decay(runs[0]),
    }


def tokens_before_decay(run: Finished) -> int:
    """Read while the learning rate is still at its full height."""
    training = run.config.training
    factors = [training.schedule.factor(step, training.steps) for step in range(training.steps)]
    return run.tokens_a_step * (1 + max(step for step, factor in enumerate(factors) if factor == max(factors)))


def against(pairs: Sequence[tuple[Finished, Finished]]) -> dict[str, Any]:
    """Runs with experts against dense ones, seed by seed.

    `tokens` are ratios: what the dense run read, over what the one with experts read until its loss was as low as the
    dense one's at its end; `seconds` the same of time, and `tokens_before_decay` until the loss that the dense run had
    before its learning rate came down.  Both are of the text that evaluations read.
    """
    differences = [one.loss - other.loss for one, other in pairs]
    tokens, seconds, before = [], [], []
    for one, other in pairs:
        reached = tokens_to_loss(one.curve, other.curve[-1][1])
        tokens.append(None if reached is None else other.tokens / reached)
        time = None if reached is None else reached / one.tokens_a_step * one.step_seconds
        seconds.append(None if time is None else other.seconds / time)
        full = tokens_before_decay(other)
        loss = loss_at(other.curve, full)
        reached = None if loss is None else tokens_to_loss(one.curve, loss)
        before.append(None if reached is None else full / reached)
    n, std = len(differences), statistics.stdev(differences) if len(differences) > 1 else 0.0
    return {
        "difference": interval(differences).tree,
        "differences": differences,
        "tokens": tokens,
        "seconds": seconds,
        "tokens_before_decay": before,
        "step_seconds": [one.step_seconds / other.step_seconds for one, other in pairs],
        "std": std if n > 1 else None,
        "detectable": detectable(std, n) if n > 1 and std else None,
    }


def ratios(values: Sequence[float | None]) -> str:
    """Their geometric mean and interval; of seeds where the loss was never reached, how many."""
    known = [value for value in values if value is not None]
    text = ratio_interval(known).told(".2f") + "×" if known else "never"
    return text if len(known) in (0, len(values)) else f"{text} ({len(values) - len(known)} of {len(values)} never)"


def told(tree: Mapping[str, Any], form: str = ".3f") -> str:
    """An interval's text."""
    if tree["low"] is None:
        return f"{tree['mean']:{form}}"
    return f"{tree['mean']:{form}} [{tree['low']:{form}}, {tree['high']:{form}}]"


def tables(figures: Figures) -> list[str]:
    models = []
    for name, one in figures["models"].items():
        models.append(
            [
                name,
                f"{one['parameters']:,}",
                f"{one['active']:,}",
                f"{one['flops'] / 1e6:.2f}",
                f"{one['tokens'] / 1e6:.2f}",
                str(len(one["losses"])),
                told(one["loss"]),
                *(told(each) for each in one["domains"].values()),
                f"{statistics.median(one['step_seconds']) * 1e3:.0f}",
                f"{statistics.median(one['seconds']):.0f}",
            ]
        )
    domains = next(iter(figures["models"].values()))["domains"] if figures["models"] else {}
    header = ("", "parameters", "active", "MFLOPs a token", "M tokens", "seeds", "held-out loss", *domains, "ms a step")
    rows = [
        [
            name,
            told(one["difference"], "+.3f"),
            "–" if one["detectable"] is None else f"{one['detectable']:.3f}",
            ratios(one["tokens"]),
            ratios(one["tokens_before_decay"]),
            ratios(one["step_seconds"]),
            ratios(one["seconds"]),
        ]
        for name, one in figures["against"].items()
    ]
    compared = (
        "",
        "difference in loss",
        "detectable",
        "tokens: dense ÷ experts",
        "the same before the decay",
        "time of a step: experts ÷ dense",
        "time: dense ÷ experts",
    )
    return [
        table((*header, "s in all"), models),
        table(compared, rows),
        f"Brackets: {1 - ALPHA:.0%} over seeds (Student's t; differences paired by seed). Detectable: the smallest "
        f"difference that a two-sided test at {ALPHA:g} finds with a power of {POWER:.0%}, given how these differences "
        "deviate. Tokens and time: until the loss that the dense run ends with.",
        figures["machine"],
    ]


def draw(figures: Figures, figure: "Figure") -> None:
    left, right = figure.subplots(1, 2, sharey=True)
    for number, (name, one) in enumerate(figures["models"].items()):
        for seed, curve in enumerate(one["curves"]):
            label = name if seed == 0 else None
            tokens, losses = zip(*curve, strict=True)
            a_token = one["seconds"][seed] / one["tokens"]
            style = {"color": colour(number), "linewidth": 1.2, "label": label}
            left.plot([each / 1e6 for each in tokens], losses, **style)
            right.plot([each * a_token for each in tokens], losses, **style)
    lowest = min((curve[-1][1] for one in figures["models"].values() for curve in one["curves"]), default=0.0)
    left.set(xlabel="million tokens", ylabel="held-out loss (nats a token)", ylim=(lowest - 0.05, lowest + 1.5))
    right.set(xlabel="seconds of training")
    left.legend(frameon=False)


STUDY = Study(
    "dense",
    "experts against dense at equal active parameters, equal total and equal time",
    minutes=20,
    seeds=3,
    measure=measure,
    tables=tables,
    draw=draw,
    size=(9.0, 4.2),
)
