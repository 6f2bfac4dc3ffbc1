"""The states of torch's random generators; nothing else here draws numbers without a seed of its own."""

from collections.abc import Mapping

import torch
from torch import Tensor


def generators() -> dict[str, Tensor]:
    """The states of all devices' generators, by name."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda.{number}": state for number, state in enumerate(torch.cuda.get_rng_state_all())}
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore_generators(states: Mapping[str, Tensor]) -> None:
    """Put back what `generators` gave; of devices that this machine lacks, nothing."""
    torch.set_rng_state(states["cpu"])
    for name, state in states.items():
        if name.startswith("cuda.") and torch.cuda.is_available():
            torch.cuda.set_rng_state(state, int(name.removeprefix("cuda.")))
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])
