"""What `sublayer routing` shows at a terminal."""

import math
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sublayer.measures.routing import LayerRouting, RoutingReport
from sublayer.measures.routing.information import Information

MOST_EXPERTS = 16
"""Experts whose tokens are shown; the page has them all."""

MOST_TOKENS = 5
"""Tokens shown of each."""

MOST_STATES = 5
"""Earlier states that are shown; the page has them all."""


def show_routing(report: RoutingReport, console: Console) -> None:
    """Print the figures of all layers, and what follows from them."""
    read = ", ".join(f"{name} ({report.tokens[name]:,} tokens)" for name in report.domains)
    console.print(f"read: {read}", markup=False)
    last = report.layers[-1]
    tables = {
        "load": _load(report),
        "what experts tell of the domain": _specialisation(report, lambda layer: layer.domains.information),
        "what experts tell of the token's id": _specialisation(report, lambda layer: layer.vocabulary.information),
        "experts together, of the tokens of the first one": _together(report),
        "choices as at the end of training": _saturation(report),
        f"tokens of which an expert of layer {last.label} has the most": _tokens(report, last),
    }
    for title, table in tables.items():
        if table.row_count:
            console.print()
            console.print(title, style="bold")
            console.print(table)
    console.print()
    for note in notes(report):
        console.print(f"· {note}", markup=False)


def notes(report: RoutingReport) -> list[str]:
    """Sentences on what stands out from what chance would give, and on what cannot be told."""
    found = []
    for layer in report.layers:
        if layer.dead:
            many = f"experts {_listed(layer.dead)} get" if len(layer.dead) > 1 else f"expert {layer.dead[0]} gets"
            found.append(f"layer {layer.label}: {many} no token at all.")
    learnt = [layer for layer in report.layers if layer.chooses == "token"]
    uneven = [layer for layer in learnt if layer.max_vio > layer.sampling_floor]
    if uneven:
        worst = max(uneven, key=lambda layer: layer.max_vio)
        found.append(
            f"the load is less even than chance in {_of(len(uneven), len(learnt))}; most in layer {worst.label}, where "
            f"expert {worst.load.index(max(worst.load))} has {1 + worst.max_vio:.2g} times its part."
        )
    elif learnt:
        found.append("the load is as even as if experts were drawn by chance.")
    found += _on(report.layers, lambda layer: layer.domains.information, "domain", "the domain of a token")
    if len(report.domains) == 1:
        found.append("one domain alone was read, so that nothing is told of specialisation by domain.")
    elif any(layer.domains.unit == "stretch" for layer in report.layers):
        found.append(
            "a domain has few documents, so that its labels are shuffled over stretches of them, which are alike: the "
            "baseline is low, and a little above it means little."
        )
    found += _on(report.layers, lambda layer: layer.vocabulary.information, "vocabulary", "a token's id")
    return found


def _on(
    layers: Sequence[LayerRouting], of: Callable[[LayerRouting], Information | None], what: str, whose: str
) -> list[str]:
    told = [(layer, information) for layer in layers if (information := of(layer)) is not None]
    above = [(layer, information) for layer, information in told if information.above]
    if not told:
        return []
    if not above:
        return [f"by {what}, no layer is above its shuffled baseline: {whose} and its experts have nothing to do."]
    most, best = max(above, key=lambda pair: pair[1].share)
    return [
        f"by {what}, {_of(len(above), len(told))} {'is' if len(above) == 1 else 'are'} above the shuffled baseline; "
        f"most in layer {most.label}, with {best.share:.1%} of what there is to know."
    ]


def _of(some: int, all_of_them: int) -> str:
    if some == all_of_them:
        return "all layers" if some > 1 else "the one layer"
    return f"{some} of {all_of_them} layers"


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return shown if len(numbers) <= 8 else f"{shown} … ({len(numbers)} in all)"


def _load(report: RoutingReport) -> Table:
    columns = ("layer", "router", "experts", "MaxVio", "floor", "dead", "entropy", "of a token", "margin")
    table = _table(*columns, left=2)
    table.columns[1].no_wrap = True
    for layer in report.layers:
        most = math.log(layer.n_experts) if layer.n_experts > 1 else 1.0
        table.add_row(
            layer.label,
            layer.router,
            f"{layer.top_k} of {layer.n_experts}",
            f"{layer.max_vio:.3f}",
            f"{layer.sampling_floor:.3f}" if layer.sampling_floor else "",
            str(len(layer.dead)),
            *("" if nats is None else f"{nats / most:.1%}" for nats in (layer.mean_entropy, layer.token_entropy)),
            "" if layer.margin is None else f"{layer.margin:.4f}",
        )
    return table


def _specialisation(report: RoutingReport, of: Callable[[LayerRouting], Information | None]) -> Table:
    table = _table("layer", "nats", "shuffled", "of most", "p")
    for layer in report.layers:
        if (told := of(layer)) is not None:
            interval = f"{told.low:.4f}–{told.high:.4f}"
            table.add_row(layer.label, f"{told.nats:.4f}", interval, f"{told.share:.1%}", f"{told.p:.3f}")
    return table


def _together(report: RoutingReport) -> Table:
    table = _table("layer", "experts", "have both", "independent")
    pairs = 2 if len(report.layers) <= 8 else 1
    for layer in report.layers:
        for number, (i, j, _) in enumerate(layer.coactivation.strongest(pairs) if layer.coactivation else []):
            assert layer.coactivation is not None
            share, expected = layer.coactivation.share_EE[i, j], layer.coactivation.expected_share_EE[i, j]
            table.add_row("" if number else layer.label, f"{i} and {j}", f"{share:.1%}", f"{expected:.1%}")
    return table


def _saturation(report: RoutingReport) -> Table:
    states = report.layers[0].saturation
    step = max(1, -(-len(states) // MOST_STATES))
    shown = range(len(states) - 1, -1, -step)[::-1]
    columns = [states[number].state for number in shown]
    table = _table("layer", *columns, "by chance")
    for layer in report.layers if states else ():
        shares = [f"{layer.saturation[number].share:.1%}" for number in shown]
        table.add_row(layer.label, *shares, f"{layer.saturation[-1].chance:.1%}")
    return table


def _tokens(report: RoutingReport, layer: LayerRouting) -> Table:
    table = _table("expert", "of all tokens", "tokens, and how often it has them", left=3)
    for expert, some in enumerate(layer.vocabulary.specialised[:MOST_EXPERTS]):
        told = "  ".join(f"‹{report.words(one.token)}› {one.share:.0%}" for one in some[:MOST_TOKENS])
        # Cut here, and not by the column: a table that is too wide takes from columns that wrap, down to nothing.
        named = Text(told, no_wrap=True, overflow="ellipsis")
        table.add_row(str(expert), f"{layer.vocabulary.share_E[expert]:.1%}", named)
    for column in table.columns[:-1]:
        column.no_wrap = True
    return table


def _table(*columns: str, left: int = 1) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for number, column in enumerate(columns):
        right = number >= left
        table.add_column(
            column, style="" if number else "bold", header_style="dim", justify="right" if right else "left"
        )
    table.columns[0].no_wrap = True  # what is too wide for a line wraps the words above figures
    return table
