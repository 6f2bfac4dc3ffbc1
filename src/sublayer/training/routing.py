"""How experts are used while a model trains, by layer: the figures of `metrics.jsonl`, and what a person should know.

Figures are of all tokens since the line before.  Judgements need more tokens than a line may have, so they are of all
lines since the judgement before, once these hold enough.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from sublayer.measures.load import dead, entropy_share, max_vio, sampling_floor, shares
from sublayer.model import Transformer
from sublayer.model.experts.mixture import Mixture
from sublayer.model.report import Report, summed
from sublayer.training.imbalance import AT_ONCE, diagnoses

ENOUGH_TOKENS, ENOUGH_STEPS = 100, 50
"""Tokens an expert would get if all had as many, and steps, that a judgement is of at least: of fewer, an expert may
have none by chance, and the first steps begin with whatever the router's initial values prefer."""

Told = Mapping[str, Any]
"""What a layer told, as plain numbers: `tokens`, `load` (a list), and others that it has."""


class RoutingRecord:
    """Adds up what the layers with experts tell.

    Args:
        model: in training.
        state: what `state` gave, to go on from there; empty at the beginning.
    """

    def __init__(self, model: Transformer, state: Mapping[str, Any]) -> None:
        self._mixtures = {name: box for name, box in model.boxes() if isinstance(box, Mixture)}
        line = state.get("line", {})
        self._line: dict[str, Tensor] = {name: torch.tensor(line[name], device=model.device) for name in line}
        self._judged: dict[str, Any] = dict(state.get("judged", {}))
        self._steps: int = state.get("steps", 0)
        self._found, self._noticed = ({(a, b) for a, b in state.get(name, [])} for name in ("found", "noticed"))
        self._biases: dict[str, list[float]] = dict(state.get("biases", {})) or self._biases_now()

    def add(self, counts: Mapping[str, Tensor]) -> None:
        """Take in a step's counts."""
        if counts:
            self._line = summed(self._line, counts)
            self._steps += 1

    def line(self) -> dict[str, dict[str, Any]]:
        """The figures by layer of all tokens since the line before; none where there are no experts.

        Those of a layer: `tokens`; `load`, each expert's share of them; `max_vio` beside its `floor`; how many experts
        are `dead`, without any token; means over tokens of the router's `entropy` (nats), also as a share of what it
        can be, and of the `margin` by which an expert was chosen; the share of assignments that were `dropped`; and of
        the biases that balance it, the `bias_range` and the largest `bias_change` since the line before.
        """
        plain = {name: value.tolist() for name, value in self._line.items()}
        biases = self._biases_now()
        told = dict(_layers(plain))
        chooses = {layer: mixture.config.router.chooses for layer, mixture in self._mixtures.items()}
        figures = {layer: layer_figures(each, chooses[layer] == "token") for layer, each in told.items()}
        for layer, bias in biases.items():
            if layer in figures:
                change = max(abs(now - before) for now, before in zip(bias, self._biases[layer], strict=True))
                figures[layer] |= {"bias_range": max(bias) - min(bias), "bias_change": change}
        self._line, self._biases = {}, biases
        self._judged = _together(self._judged, plain)
        return figures

    def notes(self) -> list[str]:
        """What is wrong since the judgement before, if enough was seen since; each once until it is right again.

        What a balance may yet mend is told when it is found a second time.
        """
        layers = {layer: told for layer, told in _layers(self._judged) if layer in self._mixtures}
        if self._steps < ENOUGH_STEPS or any(_mean(told) < ENOUGH_TOKENS for told in layers.values()):
            return []
        found = {
            (layer, kind): f"{layer}: {sentence}"
            for layer, told in layers.items()
            for kind, sentence in diagnoses(told, self._mixtures[layer].config).items()
        }
        sure = {key for key in found if key[1] in AT_ONCE or key in self._found}
        new = [found[key] for key in found if key in sure - self._noticed]
        self._noticed = sure
        self._found = set(found)
        self._judged, self._steps = {}, 0
        return new

    def state(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "line": {name: value.tolist() for name, value in self._line.items()},
            "judged": self._judged,
            "steps": self._steps,
            "found": sorted(self._found),
            "noticed": sorted(self._noticed),
            "biases": self._biases,
        }

    def _biases_now(self) -> dict[str, list[float]]:
        biases = {layer: mixture.router.balance_bias for layer, mixture in self._mixtures.items()}
        return {layer: bias.tolist() for layer, bias in biases.items() if bias is not None}


def layer_figures(told: Told, by_token: bool = True) -> dict[str, Any]:
    """The figures of one layer, those of biases left out; see `RoutingRecord.line`.

    Args:
        told: its counts.
        by_token: whether tokens choose; where experts do, no load is due to chance.
    """
    load, n_tokens = told["load"], told["tokens"]
    n_chosen = sum(load)
    figures: dict[str, Any] = {
        "tokens": n_tokens,
        "load": [round(share, 6) for share in shares(load)],
        "max_vio": max_vio(load),
        "floor": sampling_floor(len(load), n_chosen / max(1, n_tokens), n_tokens) if by_token else None,
        "dead": len(dead(load)),
    }
    if "entropy" in told:
        nats = told["entropy"] / max(1, n_tokens)
        figures |= {"entropy": nats, "entropy_share": entropy_share(nats, len(load))}
    if "margin" in told:
        figures["margin"] = told["margin"] / max(1, n_tokens)
    if "dropped" in told:
        figures["dropped"] = told["dropped"] / max(1, n_chosen)
    return figures


def _layers(counts: Mapping[str, Any]) -> Iterator[tuple[str, Told]]:
    """What each layer with experts told."""
    for name in counts:
        if name.endswith(".load"):
            layer = name.removesuffix(".load")
            yield layer, Report(counts=counts).below(layer).counts


def _mean(told: Told) -> float:
    return float(sum(told["load"]) / len(told["load"]))


def _together(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers, and lists of numbers, of the same name added."""
    total = dict(one)
    for name, value in other.items():
        before = total.get(name)
        if before is None:
            total[name] = value
        elif isinstance(value, list):
            total[name] = [left + right for left, right in zip(before, value, strict=True)]
        else:
            total[name] = before + value
    return total
