"""What an optimizer is to the training loop: steps at a share of its learning rates, and state by parameter name."""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sublayer.config import Positive
from sublayer.registry import PartConfig, Registry

Named = list[tuple[str, nn.Parameter]]


class OptimizerConfig(PartConfig):
    """Base of the optimizers."""

    registry: ClassVar[Registry[Any]] = Registry("optimizer", default_kind="adamw")

    lr: Positive
    """Learning rate at the schedule's full height."""

    def build(self, model: nn.Module) -> "Optimizer":
        """The optimizer of a model's parameters."""
        raise NotImplementedError


OptimizerChoice = Annotated[OptimizerConfig, OptimizerConfig.registry.choice()]


class Optimizer:
    """Several torch optimizers as one.

    Args:
        members: the optimizers, each with the names of its parameters in the order of its groups.
        before_step: what a member needs done before each step.
    """

    def __init__(
        self,
        members: Iterable[tuple[torch.optim.Optimizer, list[str]]],
        before_step: Callable[[], None] | None = None,
    ) -> None:
        self.members = list(members)
        self._before_step = before_step
        self._rates = [[group["lr"] for group in member.param_groups] for member, _ in self.members]

    def step(self, factor: float, together: Callable[[list[Callable[[], object]]], None] | None = None) -> None:
        """Update the parameters.

        Args:
            factor: of the configured learning rates.
            together: runs the members' steps, which touch different parameters, side by side.
        """
        if self._before_step is not None:
            self._before_step()
        for (member, _), rates in zip(self.members, self._rates, strict=True):
            for group, rate in zip(member.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        steps: list[Callable[[], object]] = [member.step for member, _ in self.members]
        if together is None:
            for step in steps:
                step()
        else:
            together(steps)

    def state(self) -> dict[str, Tensor]:
        """Everything the optimizer remembers, as `parameter.quantity` → tensor."""
        return {
            f"{name}.{quantity}": value
            for name, values, _ in self._each()
            for quantity, value in values.items()
            if isinstance(value, Tensor)
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave; a parameter that it does not name starts afresh."""
        states: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            name, _, quantity = key.rpartition(".")
            states.setdefault(name, {})[quantity] = value
        for name, _, (member, parameter) in self._each():
            if name in states:
                member.state[parameter] = {
                    quantity: value.to(parameter.device) for quantity, value in states[name].items()
                }

    def _each(self) -> Iterable[tuple[str, dict[str, Any], tuple[torch.optim.Optimizer, Tensor]]]:
        for member, names in self.members:
            parameters = [parameter for group in member.param_groups for parameter in group["params"]]
            for name, parameter in zip(names, parameters, strict=True):
                yield name, member.state.get(parameter, {}), (member, parameter)


def trained(model: nn.Module) -> Named:
    """The parameters that are trained, by name."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def said_of(model: nn.Module, what: Literal["no_hidden_matrices", "stacked_vectors"]) -> frozenset[str]:
    """The parameters of which the modules that they belong to say so (see `Sublayer`)."""
    return frozenset(
        f"{module_name}.{name}" if module_name else name
        for module_name, module in model.named_modules()
        for name in getattr(module, what, ())
    )
