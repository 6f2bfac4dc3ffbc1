"""What is wrong with how a layer's experts are used, and what to change.

Each is told of enough tokens that chance cannot be the reason (`training/routing.py`).
"""

import math
from collections.abc import Mapping
from typing import Any

from sublayer.measures.load import max_vio, sampling_floor, worst_vio
from sublayer.model.experts.balance.loss_free import LossFreeConfig
from sublayer.model.experts.mixture import ExpertsConfig

STARVING = 0.01
"""Of an even share; an expert with less learns nearly nothing."""

COLLAPSED = 0.8
"""Of the most that the maximal violation can be, and CHANCES times what it is by chance."""

CHANCES = 3

CERTAIN = 0.02
"""Of the most that the entropy can be; below, the gradients of the router's softmax have all but vanished."""

DROPPED = 0.2
"""Of the assignments, beyond those that the capacity has no room for in perfect balance."""

AT_ONCE = frozenset({"collapse", "certain"})
"""What does not mend by itself; the others are usual in the first steps."""


def diagnoses(told: Mapping[str, Any], config: ExpertsConfig) -> dict[str, str]:
    """A sentence for each thing that is wrong, by a word for it.

    Args:
        told: the layer's counts: `tokens`, `load` and, where it has them, `entropy` and `dropped`.
        config: of the layer.
    """
    load, n_tokens = told["load"], max(1, told["tokens"])
    n_experts, assignments = len(load), max(1, sum(load))
    top_k = assignments / n_tokens
    even = assignments / n_experts
    of = f"of the last {n_tokens:,} tokens"
    found: dict[str, str] = {}

    vio, worst, floor = max_vio(load), worst_vio(n_experts, top_k), sampling_floor(n_experts, top_k, n_tokens)
    starving = [expert for expert, each in enumerate(load) if each < STARVING * even]
    if vio > max(COLLAPSED * worst, CHANCES * floor):
        most = max(range(n_experts), key=load.__getitem__)
        found["collapse"] = (
            f"routing collapses: expert {most} of {n_experts} got {load[most] / n_tokens:.0%} {of}, where "
            f"{top_k / n_experts:.0%} would be even (MaxVio {vio:.2f}, by chance up to {floor:.2f}); "
            f"{_balanced(config)}."
        )
    elif starving:
        which = f"expert{'s' if len(starving) > 1 else ''} {_listed(starving)} of {n_experts}"
        found["starving"] = f"{which} got less than {STARVING:.0%} of an even share {of}; {_balanced(config)}."

    if "entropy" in told and n_experts > 1:
        nats = told["entropy"] / n_tokens
        if nats < CERTAIN * math.log(n_experts):
            found["certain"] = (
                f"the router is certain of nearly every token (an entropy of {nats:.3f} nats {of}, out of "
                f"{math.log(n_experts):.2f}), and learns no more; {_calmed(config)}."
            )
    if "dropped" in told and config.capacity is not None:
        dropped, factor = told["dropped"] / assignments, config.capacity.factor
        if dropped > DROPPED + max(0.0, 1 - factor):
            found["dropped"] = (
                f"{dropped:.0%} of what was sent to experts was dropped, {of}; raise feed_forward.capacity.factor "
                f"(now {factor:g}) or leave feed_forward.capacity out, or else {_balanced(config)}."
            )
    return found


def _balanced(config: ExpertsConfig) -> str:
    """What would use the experts more evenly."""
    if not {"load", "loss_free"} & config.router.balances:
        return f"choose another feed_forward.router than {config.router.kind_name()}, which nothing balances"
    for balance in config.balance or ():
        name = balance.kind_name()
        if isinstance(balance, LossFreeConfig):
            return f"raise the rate of {name} in feed_forward.balance (now {balance.rate:g}), or add load"
        if balance.by_loss and name != "z_loss" and hasattr(balance, "weight"):
            return f"raise the weight of {name} in feed_forward.balance (now {balance.weight:g})"
    return "set feed_forward.balance to load or loss_free"


def _calmed(config: ExpertsConfig) -> str:
    """What would keep a router's logits small."""
    for balance in config.balance or ():
        if balance.kind_name() == "z_loss" and hasattr(balance, "weight"):
            return f"raise the weight of z_loss in feed_forward.balance (now {balance.weight:g}), or {_SLOWER}"
    return f"add z_loss to feed_forward.balance, or {_SLOWER}"


_SLOWER = "lower training.optimizer.lr"


def _listed(experts: list[int]) -> str:
    """At most eight of them."""
    shown = ", ".join(map(str, experts[:8]))
    return shown if len(experts) <= 8 else f"{shown} and {len(experts) - 8} more"
