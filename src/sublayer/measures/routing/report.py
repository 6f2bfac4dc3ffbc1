"""All that is measured of a model's routing, layer by layer.

Shapes: E experts, D domains.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sublayer.data import Tokenizer
from sublayer.measures import load
from sublayer.measures.routing.coactivation import Coactivation, coactivation
from sublayer.measures.routing.decisions import Decisions, decisions_of
from sublayer.measures.routing.decode_step import DecodeStep, decode_steps
from sublayer.measures.routing.domains import Domains, domains
from sublayer.measures.routing.reading import Reading, domains_of
from sublayer.measures.routing.saturation import Saturation, saturation
from sublayer.measures.routing.vocabulary import Vocabulary, vocabulary
from sublayer.model import Transformer


@dataclass(frozen=True)
class EarlierState:
    """A model's weights at an earlier time of its training.

    Attributes:
        name: what the time is called, such as `step 200`.
        step: of the training.
        weights: gives them, by name.
    """

    name: str
    step: int
    weights: Callable[[], Mapping[str, Tensor]]


@dataclass(frozen=True)
class LayerRouting:
    """The routing of a layer.

    Attributes:
        name: the layer's, as in the report of a forward pass.
        router: its kind.
        chooses: "token" or "expert".
        n_experts: E.
        top_k: experts of a token, on average where experts choose.
        tokens: how many were routed.
        load: tokens by expert, E of them.
        max_vio: (max − mean) / mean of the load (Wang et al. 2024).
        sampling_floor: about what that is at most with experts drawn evenly; 0 where experts choose, whose loads are
            equal by themselves.
        mean_entropy: nats, of the mean of all tokens' probabilities: ln E where experts are used evenly; None where the
            router has no probabilities.
        token_entropy: nats, the mean of the tokens' own: 0 where each token is sure.
        margin: mean over tokens of the lowest probability of a chosen expert less the highest of another one; below 0
            where a bias that balances overrules the probabilities.
        domains, vocabulary: what experts are specialised in.
        coactivation: experts together; None where tokens have one each.
        decode_steps: experts that a decoding step reads; none where the layer does not decode.
        saturation: earlier states beside this one, by step.
    """

    name: str
    router: str
    chooses: str
    n_experts: int
    top_k: float
    tokens: int
    load: tuple[int, ...]
    max_vio: float
    sampling_floor: float
    mean_entropy: float | None
    token_entropy: float | None
    margin: float | None
    domains: Domains
    vocabulary: Vocabulary
    coactivation: Coactivation | None
    decode_steps: tuple[DecodeStep, ...]
    saturation: tuple[Saturation, ...]

    @property
    def label(self) -> str:
        """A short name: the layer's number, and `encoder` in front where there is one beside."""
        side, _, rest = self.name.rpartition("layers.")
        return f"{side.rstrip('.')} {rest.split('.')[0]}".strip()

    @property
    def shares(self) -> list[float]:
        """The load as parts of 1."""
        return load.shares(self.load)

    @property
    def dead(self) -> list[int]:
        """The experts without any token."""
        return load.dead(self.load)

    def tree(self, domains: Sequence[str], words: Callable[[int], str]) -> dict[str, Any]:
        """All figures, for JSON.

        Args:
            domains: their names.
            words: the text of a token.
        """
        names = self.domains
        return {
            "layer": self.name,
            "router": self.router,
            "chooses": self.chooses,
            "n_experts": self.n_experts,
            "top_k": self.top_k,
            "tokens": self.tokens,
            "load": {
                "tokens": list(self.load),
                "share": self.shares,
                "max_vio": self.max_vio,
                "sampling_floor": self.sampling_floor,
                "dead": self.dead,
            },
            "entropy": {
                "of_the_mean": self.mean_entropy,
                "mean_of_tokens": self.token_entropy,
                "most": load.entropy([1 / self.n_experts] * self.n_experts),
            },
            "margin": self.margin,
            "domains": names.tree()
            | {
                "tokens": dict(zip(domains, names.count_DE.tolist(), strict=True)),
                "share": dict(zip(domains, names.share_DE.tolist(), strict=True)),
            },
            "vocabulary": {
                "information": self.vocabulary.information.tree(),
                "share_of_all_tokens": self.vocabulary.share_E.tolist(),
                "specialised": [
                    [
                        {"token": one.token, "text": words(one.token), "share": one.share, "times": one.times}
                        for one in some
                    ]
                    for some in self.vocabulary.specialised
                ],
            },
            "coactivation": None if self.coactivation is None else self.coactivation.tree(),
            "decode_steps": [
                {"batch": step.batch, "experts": step.experts, "even": step.even} for step in self.decode_steps
            ],
            "saturation": [each.tree() for each in self.saturation],
        }


@dataclass(frozen=True)
class RoutingReport:
    """The routing of a model.

    Attributes:
        domains: the names of the domains that were read.
        tokens: of each, how many were read, on the side of the decoder or of the only stack.
        layers: those with experts that are chosen.
        tokenizer: of the model.
        last_step: of the training; None where that is not known.
    """

    domains: tuple[str, ...]
    tokens: Mapping[str, int]
    layers: tuple[LayerRouting, ...]
    tokenizer: Tokenizer
    last_step: int | None = None

    def words(self, token: int) -> str:
        """The text of a token, with what cannot be seen written out; of a special one, its name."""
        written = self.tokenizer.decode_bytes([token])
        if not written:
            return self.tokenizer.name(token)
        try:
            return repr(written.decode())[1:-1]
        except UnicodeDecodeError:  # a part of a character
            return repr(written)[2:-1]

    def tree(self) -> dict[str, Any]:
        """All figures, for JSON."""
        return {
            "domains": {name: {"tokens": self.tokens[name]} for name in self.domains},
            "last_step": self.last_step,
            "layers": [layer.tree(self.domains, self.words) for layer in self.layers],
        }


def measure_routing(
    model: Transformer,
    tokenizer: Tokenizer,
    readings: Sequence[Reading],
    earlier: Sequence[EarlierState] = (),
    last_step: int | None = None,
    progress: Callable[[float], None] = lambda done: None,
    seed: int = 0,
) -> RoutingReport:
    """Read the decisions of every router of a model, and measure them.

    Args:
        model: with experts that are chosen, read in evaluation mode and left as it is.
        tokenizer: its tokenizer.
        readings: the text, of one domain or more.
        earlier: states of the same training, each read in turn.
        last_step: of the training, where it is known.
        progress: told how much of the text has been read by all states, from 0 to 1.
        seed: of the shuffled labels.
    """
    passes = 1 + len(earlier)
    last = decisions_of(model, readings, _part(progress, 0, passes))
    before: dict[str, list[Saturation]] = {name: [] for name in last}
    if earlier:
        other = deepcopy(model)
        for number, state in enumerate(sorted(earlier, key=lambda state: state.step), 1):
            other.load_state_dict(dict(state.weights()))
            then_read = decisions_of(other, readings, _part(progress, number, passes))
            for name, then in then_read.items():
                before[name].append(saturation(then, last[name], state.name, state.step))
    names = tuple(domains_of(readings))
    tokens = dict.fromkeys(names, 0)
    for reading in readings:
        valid_BT = reading.batch.valid_BT
        tokens[reading.domain] += reading.batch.tokens_BT.numel() if valid_BT is None else int(valid_BT.sum())
    layers = tuple(_layer(each, before[name], _decodes(model, name), seed) for name, each in last.items())
    return RoutingReport(names, tokens, layers, tokenizer, last_step)


def _part(progress: Callable[[float], None], number: int, parts: int) -> Callable[[float], None]:
    return lambda done: progress((number + done) / parts)


def _decodes(model: Transformer, name: str) -> bool:
    return model.config.stack != "encoder" and not name.startswith("encoder.")


def _layer(decisions: Decisions, before: Sequence[Saturation], decodes: bool, seed: int) -> LayerRouting:
    n_tokens, n_experts = len(decisions.tokens), decisions.n_experts
    counts = tuple(decisions.load_E().tolist())
    sums_E = decisions.probability_E
    by_token = decisions.chooses == "token"
    return LayerRouting(
        decisions.name,
        decisions.router,
        decisions.chooses,
        n_experts,
        decisions.top_k,
        n_tokens,
        counts,
        load.max_vio(counts),
        load.sampling_floor(n_experts, decisions.top_k, n_tokens) if by_token else 0.0,
        None if sums_E is None else load.entropy(load.shares(sums_E.tolist())),
        None if decisions.entropy is None else decisions.entropy / n_tokens,
        None if decisions.margin is None else decisions.margin / n_tokens,
        domains(decisions, seed=seed),
        vocabulary(decisions, seed=seed),
        coactivation(decisions),
        decode_steps(decisions) if decodes else (),
        tuple(before),
    )
