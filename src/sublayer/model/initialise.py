"""Initial values: every tensor drawn from (seed, its own name).

A tensor's values then depend on nothing else: not on the order in which modules are built, the device, how the model is
divided over ranks, or what else the model holds.  Two variants that share a part start with that part equal.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sublayer.errors import ConfigError


@dataclass(frozen=True)
class Normal:
    """Independent draws from N(0, std²)."""

    std: float

    def values(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn(like.shape, generator=generator) * self.std


@dataclass(frozen=True)
class Uniform:
    """Independent draws from everywhere between two numbers alike."""

    low: float
    high: float

    def values(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return self.low + torch.rand(like.shape, generator=generator) * (self.high - self.low)


@dataclass(frozen=True)
class Constant:
    """The same value everywhere."""

    value: float

    def values(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return torch.full(like.shape, self.value)


@dataclass(frozen=True)
class Each:
    """A vector's values, one by one."""

    numbers: tuple[float, ...]

    def values(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return torch.tensor(self.numbers)


@dataclass(frozen=True)
class Rows:
    """Some rows of a larger tensor, of which a rank holds these."""

    of: "Rule"
    first: int
    n_rows: int
    """Of the larger tensor."""

    def values(self, like: Tensor, generator: torch.Generator) -> Tensor:
        whole = torch.empty(self.n_rows, *like.shape[1:], device="meta")
        return self.of.values(whole, generator)[self.first : self.first + len(like)]


Rule = Normal | Uniform | Constant | Each | Rows


@runtime_checkable
class Initialised(Protocol):
    """A module that states the initial values of its parameters, by their names below it."""

    def initial_values(self) -> Mapping[str, Rule]: ...


def generator_for(seed: int, name: str) -> torch.Generator:
    """A CPU generator that depends on `seed` and `name` alone."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Fill every parameter of `model`.

    Raises:
        ConfigError: when a module has a parameter without a rule for it.
    """
    rules: dict[str, Rule] = {}
    for path, module in model.named_modules():
        # Outer modules come first, and what they say about a child wins over the child's own rule.
        for name, rule in _rules(module).items():
            rules.setdefault(f"{path}.{name}" if path else name, rule)
    for name, parameter in model.named_parameters():
        if name not in rules:
            owner = type(model.get_submodule(name.rpartition(".")[0])).__name__
            raise ConfigError(f"{name}: {owner} has no rule for this parameter; give it an `initial_values` method.")
        parameter.copy_(rules[name].values(parameter, generator_for(seed, name)))


def _rules(module: nn.Module) -> Mapping[str, Rule]:
    if isinstance(module, Initialised):
        return module.initial_values()
    # Torch's own modules, as they stand in a user's part.
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
        return {"weight": Normal(module.weight[0].numel() ** -0.5), "bias": Constant(0.0)}
    if isinstance(module, nn.Embedding):
        return {"weight": Normal(0.02)}
    if isinstance(module, nn.LayerNorm | nn.RMSNorm | nn.GroupNorm):
        return {"weight": Constant(1.0), "bias": Constant(0.0)}
    return {}
