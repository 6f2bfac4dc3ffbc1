"""What a config costs, before it is paid."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sublayer.data import RowShape
from sublayer.model import ModelConfig
from sublayer.model.cost import Parameters, cost
from sublayer.model.ghost import ghost
from sublayer.preflight.calibration import Measured, calibrate
from sublayer.preflight.layers import Held, LayerCheck, Layers
from sublayer.preflight.subject import Source, Subject, subject_of
from sublayer.training.device import choose_device, choose_dtype
from sublayer.training.memory import NotRehearsed, TrainingMemory, training_memory

SHORTEST = 1024
"""The shortest text, in tokens, whose decoding is told, of a model that goes further."""


@dataclass(frozen=True, slots=True)
class FlopsPerToken:
    """FLOPs a token: a multiplication and an addition are two.

    Attributes:
        training: forward and backward, with the scores of every query-key pair of a row; of an encoder_decoder, a token
            of what the decoder reads, with its part of what the encoder costs.
        training_visible: the same, with those pairs only that the patterns show.
        training_all_experts: `training`, if each token went to all experts: as a dense model with all parameters.
        training_length: tokens a row, of what the decoder reads where there is a source.
        source_length: tokens of the source, in training and decoding; 0 without.
        decoding: of the last token of the longest text in `decoding_by_length`; None when the model does not decode.
        decoding_by_length: of the last token of a text of so many tokens.
    """

    training: float
    training_visible: float
    training_all_experts: float
    training_length: int
    source_length: int
    decoding: float | None
    decoding_by_length: Mapping[int, float]


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
        layers: equal ones together; of an encoder_decoder, the decoder's.
        encoder_layers: those of an encoder_decoder's encoder; their figures are a token of the source.
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
    encoder_layers: tuple[LayerCheck, ...]
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
    rows = _rows(subject)
    source_length = rows.source_length or 0
    costs = cost(model)
    lengths = _lengths(subject.model)
    longest = lengths[-1] if lengths else None
    by_length = {length: costs.decoding_flops(length, source_length) for length in lengths}
    training, unknown = None, ""
    if run is not None:
        try:
            training = training_memory(run.model, run.training, rows, device, dtype)
        except NotRehearsed as error:
            unknown = f"a part of the model looks at numbers, which are not there before it runs ({error})"
    training_flops = costs.training_flops(rows.length, "all", source_length)
    weights = costs.parameters.total * dtype.itemsize
    states = {length: Held(model.init_state(1, length, dtype=dtype), source_length) for length in lengths}
    config, found = subject.model, Layers(subject, rows, device, dtype)
    encoding = () if model.encoder is None else found.of(model.encoder, costs.encoder_layers, config.encoder_shape)
    return Check(
        vocab_size=config.vocab_size or 0,
        vocabulary_from=subject.assumed,
        device=device.type,
        dtype=str(dtype).removeprefix("torch."),
        parameters=costs.parameters,
        flops_per_token=FlopsPerToken(
            training=training_flops,
            training_visible=costs.training_flops(rows.length, "visible", source_length),
            training_all_experts=training_flops + costs.idle_flops(rows.length, source_length),
            training_length=rows.length,
            source_length=source_length,
            decoding=None if longest is None else by_length[longest],
            decoding_by_length=by_length,
        ),
        layers=found.of(model, costs.layers, config.shape, states),
        encoder_layers=encoding,
        memory=MemoryCheck(
            weights=weights,
            decoding={length: weights + held.n_bytes for length, held in states.items()},
            training=training,
            unknown=unknown,
        ),
        exports=(),
        measured=calibrate(config, run, costs, device, dtype) if measure else None,
    )


def _rows(subject: Subject) -> RowShape:
    """The rows of the run, or such as a model alone can read."""
    if subject.run is not None:
        return subject.run.data.row_shape()
    longest = subject.model.max_length
    return RowShape(longest, longest if subject.model.stack == "encoder_decoder" else None)


def _lengths(model: ModelConfig) -> list[int]:
    """Lengths of text whose decoding is told, rising to the model's own; none when it does not decode."""
    exact = model.cache_exact()
    if model.stack == "encoder" or not model.head.by_token or exact.reason:
        return []
    longest, length = min(model.max_length, exact.length or model.max_length), SHORTEST
    if longest <= SHORTEST:
        return sorted({max(1, longest // 4), max(1, longest // 2), longest})
    lengths = []
    while length < longest:
        lengths.append(length)
        length *= 2
    return [*lengths, longest]
