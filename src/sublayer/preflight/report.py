"""What a config costs, before it is paid."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from sublayer.model import ModelConfig, Transformer
from sublayer.model.cost import BACKWARD, ModelCost, Parameters, cost
from sublayer.model.ghost import ghost
from sublayer.model.part import CacheExact
from sublayer.model.resolution import LAYER_FIELDS
from sublayer.model.state import Memory
from sublayer.preflight.calibration import Measured, calibrate
from sublayer.preflight.kernels import KernelChoice, decoding_kernel, training_kernel
from sublayer.preflight.subject import Source, Subject, subject_of
from sublayer.training.device import choose_device, choose_dtype
from sublayer.training.memory import NotRehearsed, TrainingMemory, training_memory

SHORTEST = 1024
"""The shortest text, in tokens, whose decoding is told, of a model that goes further."""


@dataclass(frozen=True, slots=True)
class FlopsPerToken:
    """FLOPs a token: a multiplication and an addition are two.

    Attributes:
        training: forward and backward, with the scores of every query-key pair of a row.
        training_visible: the same, with those pairs only that the patterns show.
        training_length: tokens a row.
        decoding: of the last token of the longest text in `decoding_by_length`; None when the model does not decode.
        decoding_by_length: of the last token of a text of so many tokens.
    """

    training: float
    training_visible: float
    training_length: int
    decoding: float | None
    decoding_by_length: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Keeps:
    """What a layer keeps of the tokens that it has seen, for each text that is decoded.

    Attributes:
        tokens: how many of the last ones; None for all.
        bytes_per_token: of each of them.
        bytes: of everything, in a text as long as the model goes.
    """

    tokens: int | None
    bytes_per_token: int
    bytes: int


@dataclass(frozen=True, slots=True)
class LayerCheck:
    """Equal layers together; figures are of one of them.

    Attributes:
        layers: their numbers, from 0.
        position, attention, feed_forward, residual, norm: the choices, complete.
        training_kernel, decoding_kernel: what computes the attention, and why; None where it is not done.
        cache_exact: whether decoding with a cache equals full passes, and how far.
        parameters, active: numbers trained, and those that one token uses.
        training_flops, decoding_flops: FLOPs a token, as in `FlopsPerToken.training` and `.decoding`.
        keeps: while decoding; None when the model does not decode.
    """

    layers: tuple[int, ...]
    position: Mapping[str, Any]
    attention: Mapping[str, Any]
    feed_forward: Mapping[str, Any]
    residual: Mapping[str, Any]
    norm: Mapping[str, Any]
    training_kernel: KernelChoice | None
    decoding_kernel: KernelChoice | None
    cache_exact: CacheExact
    parameters: int
    active: int
    training_flops: float
    decoding_flops: float | None
    keeps: Keeps | None


@dataclass(frozen=True, slots=True)
class MemoryCheck:
    """Bytes.

    Attributes:
        weights: in the run's dtype, as for decoding.
        decoding: weights and caches by the length of one text.
        training: at the highest point of training; None for a model alone, and where it cannot be estimated.
        unknown: why it cannot be.
    """

    weights: int
    decoding: Mapping[int, int]
    training: TrainingMemory | None
    unknown: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """What `sublayer check` tells.

    Attributes:
        vocab_size: of the model.
        vocabulary_from: where that size was taken from when the config does not state it; empty when it does.
        device, dtype: that the run would take on this machine.
        parameters: of the model.
        flops_per_token: in training and decoding.
        layers: equal ones together.
        memory: for decoding and for training.
        exports: families of models that it can be written out as.
        measured: the speed here, where that was asked for.
    """

    vocab_size: int
    vocabulary_from: str
    device: str
    dtype: str
    parameters: Parameters
    flops_per_token: FlopsPerToken
    layers: tuple[LayerCheck, ...]
    memory: MemoryCheck
    exports: tuple[str, ...]
    measured: Measured | None = None

    def tree(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        return asdict(self)


def check(config: Source = None, *, measure: bool = False, **overrides: Any) -> Check:
    """What a config costs, without reading data, and without computing unless it is asked for.

    Args:
        config: a YAML file, the directory of a run or model, a mapping or a config; None for the default run.
        measure: run a few steps, to tell the speed on this machine.
        **overrides: dotted keys to values, as in `**{"model.d_model": 512}`.

    Raises:
        ConfigError: when the composition is illegal or a value is refused.
        CheckpointError: when a model directory is damaged.
    """
    return checked(subject_of(config, overrides), measure)


def checked(subject: Subject, measure: bool = False) -> Check:
    """What a model costs, and its run where there is one; with `measure` its speed as well.

    Raises:
        ConfigError: when no such model can be built.
    """
    model, run = ghost(subject.model), subject.run
    device = choose_device("auto" if run is None else run.device)
    dtype = choose_dtype("auto" if run is None else run.dtype, device)
    length = subject.model.max_length if run is None else run.data.sequence_length
    costs = cost(model)
    lengths = _lengths(subject.model)
    longest = lengths[-1] if lengths else None
    by_length = {length: costs.decoding_flops(length) for length in lengths}
    training, unknown = None, ""
    if run is not None:
        try:
            training = training_memory(run.model, run.training, length, run.data.isolate_documents, device, dtype)
        except NotRehearsed as error:
            unknown = f"a part of the model looks at numbers, which are not there before it runs ({error})"
    weights = costs.parameters.total * dtype.itemsize
    return Check(
        vocab_size=subject.model.vocab_size or 0,
        vocabulary_from=subject.assumed,
        device=device.type,
        dtype=str(dtype).removeprefix("torch."),
        parameters=costs.parameters,
        flops_per_token=FlopsPerToken(
            training=costs.training_flops(length),
            training_visible=costs.training_flops(length, "visible"),
            training_length=length,
            decoding=None if longest is None else by_length[longest],
            decoding_by_length=by_length,
        ),
        layers=_layers(subject, model, costs, length, longest, device, dtype),
        memory=MemoryCheck(
            weights=weights,
            decoding={length: weights + model.init_state(1, length, dtype=dtype).n_bytes for length in lengths},
            training=training,
            unknown=unknown,
        ),
        exports=(),
        measured=calibrate(subject.model, run, costs, device, dtype) if measure else None,
    )


def _lengths(model: ModelConfig) -> list[int]:
    """Lengths of text whose decoding is told, rising to the model's own; none when it does not decode."""
    exact = model.cache_exact()
    if model.stack != "decoder" or exact.reason:
        return []
    longest, length = min(model.max_length, exact.length or model.max_length), SHORTEST
    if longest <= SHORTEST:
        return sorted({max(1, longest // 4), max(1, longest // 2), longest})
    lengths = []
    while length < longest:
        lengths.append(length)
        length *= 2
    return [*lengths, longest]


def _layers(
    subject: Subject,
    model: Transformer,
    costs: ModelCost,
    length: int,
    longest: int | None,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[LayerCheck, ...]:
    shape, run = subject.model.shape, subject.run
    together: dict[int, list[int]] = {}  # the first of equal layers, and all of them
    for number, layer in enumerate(costs.layers):
        first = next((first for first in together if costs.layers[first].config == layer.config), number)
        together.setdefault(first, []).append(number)
    found = []
    for numbers in together.values():
        layer = costs.layers[numbers[0]]
        config, by_itself = layer.config, layer.token_flops
        training = decoding = keeps = decoding_flops = None
        if run is not None:
            training = training_kernel(config, shape, length, run.data.isolate_documents, device, dtype)
        if longest is not None:
            kept = layer.kept(longest)
            decoding = decoding_kernel(config, shape, kept, device, dtype)
            decoding_flops = by_itself + layer.decoding_pair_flops * kept
            keeps = _keeps(model.init_state(1, longest, dtype=dtype).layers[numbers[0]], longest)
        found.append(
            LayerCheck(
                layers=tuple(numbers),
                **{name: getattr(config, name).tree() for name in LAYER_FIELDS},
                training_kernel=training,
                decoding_kernel=decoding,
                cache_exact=config.cache_exact(shape),
                parameters=layer.parameters,
                active=layer.active,
                training_flops=(1 + BACKWARD) * (by_itself + layer.pair_flops * length),
                decoding_flops=decoding_flops,
                keeps=keeps,
            )
        )
    return tuple(found)


def _keeps(memories: Sequence[Memory | None], longest: int) -> Keeps:
    there = [memory for memory in memories if memory is not None]
    rooms = [memory.capacity for memory in there if memory.capacity is not None]
    return Keeps(
        tokens=max(rooms, default=0) if max(rooms, default=0) < longest else None,
        bytes_per_token=sum(memory.token_bytes for memory in there),
        bytes=sum(memory.n_bytes for memory in there),
    )
