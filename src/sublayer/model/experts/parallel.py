"""Expert parallelism: each rank holds some of every layer's experts, and tokens travel to theirs and back.

Lepikhin et al. 2021, section 3.3.  Everything else is replicated, and each rank computes sequences of its own.

Shapes: M rows sorted by expert, E experts of all ranks, D d_model.
"""

from collections.abc import Collection, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from sublayer.errors import ConfigError
from sublayer.model.experts.bank import Bank
from sublayer.model.experts.exchange import exchanged, exchanged_counts
from sublayer.model.experts.mixture import Mixture
from sublayer.model.initialise import Rows, Rule
from sublayer.model.transformer import Transformer


@dataclass(frozen=True)
class Ranks:
    """The ranks among which experts are divided, and which of them this is.

    Attributes:
        group: the ranks.
        size: how many they are.
        number: this one's, from 0.
    """

    group: dist.ProcessGroup
    size: int
    number: int

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # a group is the processes', not the model's

    def gathered(self, tensor: Tensor) -> Tensor:
        """The tensors of all ranks, [n, …] each, one below the other."""
        whole = tensor.new_empty(self.size * len(tensor), *tensor.shape[1:])
        dist.all_gather(list(whole.chunk(self.size)), tensor.contiguous(), group=self.group)
        return whole

    def own(self, tensor: Tensor) -> Tensor:
        """This rank's rows of what `gathered` gives, in memory of its own."""
        return tensor.chunk(self.size)[self.number].clone()


def distribute_experts(model: Transformer, ranks: DeviceMesh | dist.ProcessGroup) -> None:
    """Divide the experts of all layers among ranks, in place: of E experts, rank r of n keeps r·E/n to (r+1)·E/n − 1.

    The ranks hold the same model; everything else of it stays replicated.  From then on every rank of the group makes
    every forward and backward pass together with the others, each with a batch of its own, of any size.

    A rank's loss is its own: summed over its targets, divided by the number of all ranks' targets.  The gradients of
    experts are then complete after the backward pass, and the others have to be summed (not averaged) over the ranks:
    `sublayer.training.gradients.reduce_gradients`.  With FSDP2 on the same ranks, give `fully_shard` the experts'
    weights as `ignored_params` (`divided`), set its gradient divide factor to 1, and give optimizers and clipping the
    two kinds of parameters apart.  DistributedDataParallel averages, and takes the experts' weights for replicas: use
    `reduce_gradients` in its place.

    What counts over a batch, such as a capacity, does so over each rank's own.  Build the optimizer afterwards.
    `model.state_dict()` holds this rank's experts alone; to save the model use `full_state_dict`, whose tensors any
    number of ranks can load.

    Args:
        model: to be divided.
        ranks: a mesh with one dimension, such as `mesh["experts"]`, or a group.

    Raises:
        ConfigError: when the number of ranks does not divide that of the experts of a layer.
        ValueError: when the model has no experts, is packed, or is divided already, or the mesh has more dimensions.
    """
    if isinstance(ranks, DeviceMesh) and ranks.ndim != 1:
        names = ", ".join(ranks.mesh_dim_names or ()) or "none of them named"
        raise ValueError(f"ranks: the mesh has {ranks.ndim} dimensions ({names}); choose one, as in mesh['experts'].")
    group = ranks.get_group() if isinstance(ranks, DeviceMesh) else ranks
    here = Ranks(group, dist.get_world_size(group), dist.get_rank(group))
    if here.number < 0:
        raise ValueError("ranks: this process is not one of the group; divide the experts on those that are.")
    if model.packed:
        raise ValueError("a packed model stays whole; call unpack() first.")
    mixtures = [(name, module) for name, module in model.named_modules() if isinstance(module, Mixture)]
    if not mixtures:
        raise ValueError("the model has no experts to divide; choose feed_forward: experts.")
    for name, mixture in mixtures:
        if isinstance(mixture.experts, ParallelBank):
            raise ValueError("the model's experts are divided already; divide them once.")
        if mixture.experts.n_experts % here.size:
            raise ConfigError(
                f"n_experts: the {mixture.experts.n_experts} experts of {name} cannot be divided evenly among "
                f"{here.size} ranks; choose a number of ranks that divides them."
            )
    if here.size > 1:
        for _, mixture in mixtures:
            mixture.experts = ParallelBank(mixture.experts, here)


class ParallelBank(Bank):
    """One rank's experts, which compute the rows of all ranks.

    Args:
        bank: all experts; it must not be used any more.
        ranks: among which they are divided.
    """

    def __init__(self, bank: Bank, ranks: Ranks) -> None:
        nn.Module.__init__(self)
        vars(self).update(vars(bank))
        self.ranks = ranks
        self.n_experts = bank.n_experts // ranks.size
        for parameter in self.parameters():
            parameter.data = ranks.own(parameter.data)
            parameter.grad = None

    def forward(self, x_MD: Tensor, count_E: Tensor) -> Tensor:
        """As of all experts: the outputs [M, D] of this rank's rows.

        Args:
            x_MD: rows sorted by expert, of all ranks' experts.
            count_E: how many rows are each one's (int64).
        """
        kind, group = x_MD.device.type, self.ranks.group
        if torch.is_autocast_enabled(kind) and x_MD.dtype != torch.float64:
            x_MD = x_MD.to(torch.get_autocast_dtype(kind))  # in which they are computed: fewer bytes travel
        count_RE, sent, received = exchanged_counts(count_E, group)
        x_RD = exchanged(x_MD, sent, received, group)
        # They come sorted by rank and then by expert.
        expert_R = torch.arange(count_RE.numel(), device=x_MD.device) % self.n_experts
        expert_R = expert_R.repeat_interleave(count_RE.flatten(), output_size=len(x_RD))
        order_R = expert_R.argsort(stable=True)
        back_R = torch.empty_like(order_R).scatter(0, order_R, torch.arange(len(order_R), device=order_R.device))
        y_RD = super().forward(x_RD.index_select(0, order_R), count_RE.sum(0)).index_select(0, back_R)
        y_MD: Tensor = exchanged(y_RD, received, sent, group)
        return y_MD

    def fuses(self, x_ND: Tensor) -> bool:
        return False  # rows travel between the dispatch and the experts

    def initial_values(self) -> Mapping[str, Rule]:
        first, whole = self.ranks.number * self.n_experts, self.ranks.size * self.n_experts
        return {name: Rows(rule, first, whole) for name, rule in super().initial_values().items()}

    def _load_from_state_dict(
        self, state_dict: MutableMapping[str, Any], prefix: str, *arguments: Any, **options: Any
    ) -> None:
        for name, parameter in self.named_parameters():
            tensor = state_dict.get(prefix + name)
            if tensor is not None and tensor.shape[:1] == (len(parameter) * self.ranks.size,):
                state_dict[prefix + name] = self.ranks.own(tensor)
        super()._load_from_state_dict(state_dict, prefix, *arguments, **options)


def divided(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of which this rank holds a part, by name."""
    return {name: parameter for name, parameter, _ in _parts(model)}


def full_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state of the whole model, as one rank would have it: all experts in their order.

    Every rank calls it, and has all of it.  What `fully_shard` divided is put together as well.  A model on any number
    of ranks loads it with `load_state_dict`, of which each rank takes its own experts.
    """
    return gathered(model, model.state_dict())


def gathered(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of this rank's experts, with those of the other ranks.

    Args:
        model: whose experts are divided, or not.
        tensors: named as parameters are, or as an optimizer's state: `parameter.quantity`, or of one expert by itself
            `parameter[expert].quantity`.  Every rank gives the same names.

    Returns:
        The same, as of one rank: whole, where a tensor is as large as a parameter that is divided, and each expert's.
    """
    parts = {name: (parameter, ranks) for name, parameter, ranks in _parts(model)}
    whole = {}
    for key, tensor in tensors.items():
        name, expert, quantity = _parsed(key, parts)
        tensor = _undivided(tensor)
        if name not in parts:
            whole[key] = tensor
            continue
        parameter, ranks = parts[name]
        if expert is not None:
            for rank, each in enumerate(ranks.gathered(tensor[None])):
                whole[f"{name}[{rank * len(parameter) + expert}]{quantity}"] = each.clone()
        else:
            whole[key] = ranks.gathered(tensor) if tensor.shape == parameter.shape else tensor
    return whole


def own_part(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `gathered`: without what belongs to experts on other ranks."""
    parts = {name: (parameter, ranks) for name, parameter, ranks in _parts(model)}
    own = {}
    for key, tensor in tensors.items():
        name, expert, quantity = _parsed(key, parts)
        if name not in parts:
            own[key] = tensor
            continue
        parameter, ranks = parts[name]
        if expert is None:
            whole = (len(parameter) * ranks.size, *parameter.shape[1:])
            own[key] = ranks.own(tensor) if tensor.shape == whole else tensor
        elif expert // len(parameter) == ranks.number:
            own[f"{name}[{expert % len(parameter)}]{quantity}"] = tensor
    return own


def _parsed(key: str, parameters: Collection[str]) -> tuple[str, int | None, str]:
    """A parameter's name; the number of an expert, where it is one's alone; and the rest, such as ".exp_avg"."""
    if key in parameters:
        return key, None, ""
    name, dot, quantity = key.rpartition(".")
    if name.endswith("]"):
        name, _, number = name.removesuffix("]").rpartition("[")
        return name, int(number), dot + quantity
    return name, None, dot + quantity


def _undivided(tensor: Tensor) -> Tensor:
    """Without the division of `fully_shard`."""
    if type(tensor) in (Tensor, nn.Parameter):
        return tensor
    from torch.distributed.tensor import DTensor  # slow to import

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _parts(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, Ranks]]:
    for path, module in model.named_modules():
        if isinstance(module, ParallelBank):
            for name, parameter in module.named_parameters(path):
                yield name, parameter, module.ranks
