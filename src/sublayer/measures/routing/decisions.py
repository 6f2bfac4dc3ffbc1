"""What the routers of a model decide about a text, token by token.

Shapes: B rows, T tokens, N tokens that were read, E experts, M assignments of a token to an expert.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sublayer.data import Batch
from sublayer.data.packing import SourceRows
from sublayer.errors import RunError
from sublayer.measures.held_out import inputs_of
from sublayer.measures.routing.reading import Reading, domains_of, sides_of
from sublayer.model import Transformer
from sublayer.model.experts.mixture import Mixture

CHUNK = 4096
"""Tokens whose decisions are unpacked at once."""


@dataclass(frozen=True)
class Tokens:
    """The tokens that a side of a model reads, padding left out.

    Attributes:
        domains: the names of the domains.
        id_N: their ids.
        domain_N: their domains, by number.
        document_N: their documents, by a number of its own among all.
        stretch_N: the same, with a document that stands in several rows counted as one in each.
    """

    domains: tuple[str, ...]
    id_N: NDArray[np.int64]
    domain_N: NDArray[np.int64]
    document_N: NDArray[np.int64]
    stretch_N: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.id_N)


@dataclass(frozen=True)
class Decisions:
    """What a layer's router decided.

    Attributes:
        name: the layer's, as in the report of a forward pass.
        router: its kind.
        chooses: who chooses, "token" or "expert".
        n_experts: E.
        top_k: experts of a token, on average where experts choose.
        tokens: about which it decided.
        packed: [N, ⌈E/8⌉] which experts each token went to, a bit for each.
        probability_E: the sum over tokens of the router's probabilities; None where it has none.
        entropy: the sum over tokens of their entropy in nats; None likewise.
        margin: the sum over tokens of the lowest probability of a chosen expert less the highest of another one; None
            where tokens do not choose by probabilities, or choose all experts.
    """

    name: str
    router: str
    chooses: str
    n_experts: int
    top_k: float
    tokens: Tokens
    packed: NDArray[np.uint8]
    probability_E: NDArray[np.float64] | None = None
    entropy: float | None = None
    margin: float | None = None

    def chunks(self) -> Iterator[NDArray[np.bool_]]:
        """The decisions [n, E], some tokens at a time."""
        for begin in range(0, len(self.packed), CHUNK):
            bits = np.unpackbits(self.packed[begin : begin + CHUNK], axis=1, count=self.n_experts)
            yield bits.astype(np.bool_)

    def assignments(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The tokens and the experts of all assignments, [M] each, by token."""
        tokens, experts = [], []
        for number, chosen_NE in enumerate(self.chunks()):
            token_M, expert_M = np.nonzero(chosen_NE)
            tokens.append(token_M + number * CHUNK)
            experts.append(expert_M)
        return np.concatenate(tokens), np.concatenate(experts)

    def load_E(self) -> NDArray[np.int64]:
        """Tokens by expert, [E]."""
        _, expert_M = self.assignments()
        return np.bincount(expert_M, minlength=self.n_experts)

    def table(self, group_N: NDArray[np.int64], n_groups: int) -> NDArray[np.int64]:
        """Assignments by a group of the tokens and by expert, [G, E].

        Args:
            group_N: the group of each token.
            n_groups: G.
        """
        token_M, expert_M = self.assignments()
        key_M = group_N[token_M] * self.n_experts + expert_M
        return np.bincount(key_M, minlength=n_groups * self.n_experts).reshape(n_groups, self.n_experts)


@dataclass
class _Gathered:
    packed: list[NDArray[np.uint8]] = field(default_factory=list)
    probability_E: Tensor | None = None
    entropy: float = 0.0
    margin: float = 0.0


def mixtures(model: Transformer) -> dict[str, Mixture]:
    """The layers of a model whose routers decide, by name."""
    boxes = {name: box for name, box in model.boxes() if isinstance(box, Mixture)}
    return {name: box for name, box in boxes.items() if box.config.router.chooses != "none"}


def decisions_of(
    model: Transformer, readings: Sequence[Reading], progress: Callable[[float], None] = lambda done: None
) -> Mapping[str, Decisions]:
    """What the routers of every layer with experts decide, by the layer's name.

    A bit for each token and expert is kept, since what a token's experts have to do with its id and with one another
    cannot be told from sums.

    Args:
        model: read in evaluation mode, and left in the mode it was in.
        readings: the text.
        progress: told how much is done, from 0 to 1.

    Raises:
        RunError: when a router's numbers are not finite.
    """
    found = mixtures(model)
    for name, box in found.items():
        bias_E = box.router.balance_bias
        if bias_E is not None and not bias_E.isfinite().all():
            raise RunError(f"{name}: the bias that balances experts is no number; its weights are damaged.")
    gathered = {name: _Gathered() for name in found}
    was_training = model.training
    model.eval()
    try:
        for number, reading in enumerate(readings):
            progress(number / len(readings))
            told = _routing(model, reading.batch)
            for prefix, side in sides_of(reading):
                valid_BT = _valid(side)
                for name in found:
                    if name.startswith("encoder.") == bool(prefix):
                        _gather(gathered[name], told, name, valid_BT.to(model.device), found[name])
    finally:
        model.train(was_training)
    tokens = {prefix: _tokens(readings, prefix) for prefix in ("", "encoder.") if _has(readings, prefix)}
    return {
        name: _decisions(name, box, gathered[name], tokens["encoder." if name.startswith("encoder.") else ""])
        for name, box in found.items()
    }


@torch.no_grad()
def _routing(model: Transformer, batch: Batch) -> Mapping[str, Tensor]:
    # The logits are of no use, so they are asked for in one place of each row alone, where that can be said.
    first_B = torch.zeros(len(batch.tokens_BT), dtype=torch.int64, device=model.device)
    at = first_B if model.config.head.by_token else None
    told: Mapping[str, Tensor] = model(**inputs_of(batch, model.device), logits_at=at, want=["routing"]).report.routing
    return told


def _gather(into: _Gathered, told: Mapping[str, Tensor], name: str, valid_BT: Tensor, box: Mixture) -> None:
    # On the CPU, since not every device has double precision.
    chosen_NE = told[f"{name}.chosen"][valid_BT].cpu()
    into.packed.append(np.packbits(chosen_NE.numpy(), axis=1))
    probability = told.get(f"{name}.probability")
    if probability is None:
        return
    probability_NE = probability[valid_BT].cpu().double()
    if not probability_NE.isfinite().all():
        raise RunError(f"{name}: the router gives probabilities that are no numbers; its weights are damaged.")
    total_E = probability_NE.sum(0)
    into.probability_E = total_E if into.probability_E is None else into.probability_E + total_E
    into.entropy += float(torch.special.entr(probability_NE).sum())
    if box.config.router.chooses == "token" and box.config.chosen < box.config.n_experts:
        last_N = probability_NE.masked_fill(~chosen_NE, torch.inf).amin(1)
        first_N = probability_NE.masked_fill(chosen_NE, -torch.inf).amax(1)
        into.margin += float((last_N - first_N).sum())


def _decisions(name: str, box: Mixture, gathered: _Gathered, tokens: Tokens) -> Decisions:
    config, sums = box.config, gathered.probability_E
    chosen = config.router.chooses == "token" and config.chosen < config.n_experts
    return Decisions(
        name,
        config.router.kind_name(),
        config.router.chooses,
        config.n_experts,
        config.chosen,
        tokens,
        np.concatenate(gathered.packed),
        None if sums is None else sums.numpy(),
        None if sums is None else gathered.entropy,
        gathered.margin if sums is not None and chosen else None,
    )


def _has(readings: Sequence[Reading], prefix: str) -> bool:
    return any(prefix == side for reading in readings for side, _ in sides_of(reading))


def _valid(side: Batch | SourceRows) -> Tensor:
    tokens, valid = (side.tokens_BT, side.valid_BT) if isinstance(side, Batch) else (side.tokens_BS, side.valid_BS)
    return torch.ones_like(tokens, dtype=torch.bool) if valid is None else valid


def _tokens(readings: Sequence[Reading], prefix: str) -> Tokens:
    """What one side reads, numbered."""
    domains = domains_of(readings)
    ids, domain, document, stretch = [], [], [], []
    n_stretches = 0
    for reading in readings:
        side = dict(sides_of(reading))[prefix]
        tokens, documents = (
            (side.tokens_BT, side.document_BT) if isinstance(side, Batch) else (side.tokens_BS, side.document_BS)
        )
        valid_BT = _valid(side).numpy()
        in_row_BT = np.zeros(valid_BT.shape, dtype=np.int64) if documents is None else documents.numpy()
        width = int(in_row_BT.max()) + 1
        row_BT = np.arange(len(in_row_BT))[:, None] * width + in_row_BT + n_stretches
        n_stretches += len(in_row_BT) * width
        number = domains.index(reading.domain)
        ids.append(tokens.numpy()[valid_BT])
        domain.append(np.full(int(valid_BT.sum()), number, dtype=np.int64))
        # Numbers of different domains stay apart.
        of_BT = (reading.document_B[:, None] + in_row_BT) * len(domains) + number
        document.append(of_BT[valid_BT])
        stretch.append(row_BT[valid_BT])
    return Tokens(
        tuple(domains),
        np.concatenate(ids),
        np.concatenate(domain),
        np.unique(np.concatenate(document), return_inverse=True)[1],
        np.unique(np.concatenate(stretch), return_inverse=True)[1],
    )
