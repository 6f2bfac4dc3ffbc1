"""The control loop of loss-free balance by itself: a router that does not learn, and the bias that balances it.

Shapes: N tokens of a step, D d_model, E experts.
"""

import statistics
from typing import TYPE_CHECKING

import torch

from sublayer.measures.load import max_vio, sampling_floor
from sublayer.model import ModelConfig
from sublayer.model.experts.balance.loss_free import LossFreeConfig
from sublayer.model.experts.router import Team
from sublayer.model.experts.router.top_k import TopKConfig
from sublayer.model.experts.routing import Places
from sublayer.model.layout import Layout

from .desk import Desk
from .study import Figures, Study, colour, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N_EXPERTS, TOP_K, N_TOKENS, D_MODEL, STEPS = 16, 2, 2048, 64, 600
RATES = (1e-4, 1e-3, 1e-2)
SCORINGS = ("sigmoid", "softmax")
COMMON = 0.3
"""Of what tokens have in common, beside 1 of their own: without it, a router's initial values prefer no expert."""


def path(scoring: str, rate: float, seed: int = 0, steps: int = STEPS) -> list[float]:
    """MaxVio of each step's tokens, which are new and of one distribution, before the bias is changed by them."""
    shape = ModelConfig(vocab_size=2, d_model=D_MODEL, n_layers=1).shape
    config = TopKConfig(scoring=scoring).settled(shape, N_EXPERTS, TOP_K)  # type: ignore[arg-type]
    router = config.build(shape, Team(N_EXPERTS, TOP_K, biased=True)).eval()
    balance = LossFreeConfig(rate=rate)
    draw = torch.Generator().manual_seed(seed)
    # Logits of unit variance over tokens.
    torch.nn.init.normal_(router.weight, std=D_MODEL**-0.5, generator=draw)
    common_D = COMMON * torch.randn(D_MODEL, generator=draw)
    places = Places((1, N_TOKENS), Layout().resolved(N_TOKENS, torch.device("cpu")))
    found = []
    with torch.no_grad():
        for _ in range(steps):
            x_ND = torch.randn(N_TOKENS, D_MODEL, generator=draw) + common_D
            load_E = router.route(x_ND, places).load_E(N_EXPERTS, None)
            found.append(max_vio(load_E.tolist()))
            router.balance_bias.copy_(balance.changed(router.balance_bias, load_E))
    return found


def measure(desk: Desk) -> Figures:
    return {
        "floor": sampling_floor(N_EXPERTS, TOP_K, N_TOKENS),
        "paths": {scoring: {f"{rate:g}": path(scoring, rate) for rate in RATES} for scoring in SCORINGS},
    }


def tables(figures: Figures) -> list[str]:
    rows = []
    for scoring, paths in figures["paths"].items():
        for rate, found in paths.items():
            shown = [f"{found[min(step, len(found)) - 1]:.2f}" for step in (1, 100, STEPS)]
            last = found[-100:]
            rows.append(
                [
                    f"{scoring}, u = {rate}",
                    *shown,
                    f"{statistics.fmean(last):.3f}",
                    f"{min(last):.2f} … {max(last):.2f}",
                ]
            )
    header = ("", "step 1", "step 100", f"step {STEPS}", "mean of the last 100", "their range")
    return [table(header, rows), f"By chance (sampling floor): {figures['floor']:.3f}."]


def draw(figures: Figures, figure: "Figure") -> None:
    panels = figure.subplots(1, len(SCORINGS), sharey=True)
    for panel, (scoring, paths) in zip(panels, figures["paths"].items(), strict=True):
        for number, (rate, found) in enumerate(paths.items()):
            panel.plot(range(1, len(found) + 1), found, color=colour(number), linewidth=1, label=f"u = {rate}")
        panel.axhline(figures["floor"], color="#5b5b5b", linewidth=1, linestyle="--", label="by chance")
        panel.set(xlabel="step", title=scoring, yscale="log")
    panels[0].set_ylabel("MaxVio")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)


STUDY = Study(
    "bias",
    "the control loop of loss-free balance, by the rate of its bias; nothing is trained",
    minutes=0.2,
    seeds=0,
    measure=measure,
    tables=tables,
    draw=draw,
    size=(8.0, 3.6),
)
