"""What each layer of a stack costs, computes with, and keeps while decoding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sublayer.data import RowShape
from sublayer.model.block import Block
from sublayer.model.cost import BACKWARD, LayerCost
from sublayer.model.part import CacheExact, StackShape
from sublayer.model.resolution import LAYER_FIELDS
from sublayer.model.stack import Stack
from sublayer.model.state import Memory, State
from sublayer.preflight.kernels import KernelChoice, decoding_kernel, training_kernel
from sublayer.preflight.subject import Subject


@dataclass(frozen=True, slots=True)
class Kept:
    """What one sublayer keeps while decoding.

    Attributes:
        sublayer: its name in the layer.
        holds: what is kept of a token, in words.
        tokens: of how many of the last ones; None of all.
        bytes_per_token: of each of them.
        bytes_per_source_token: of each token of the source.
    """

    sublayer: str
    holds: str
    tokens: int | None
    bytes_per_token: int
    bytes_per_source_token: int


@dataclass(frozen=True, slots=True)
class Keeps:
    """What a layer keeps of the tokens that it has seen, for each text that is decoded.

    Attributes:
        tokens: how many of the last ones; None for all.
        bytes_per_token: of each of them.
        bytes: of everything, in a text as long as the model goes (behind a source of `FlopsPerToken.source_length`).
        bytes_by_length: the same, of texts of other lengths.
        memories: each sublayer's part.
    """

    tokens: int | None
    bytes_per_token: int
    bytes: int
    bytes_by_length: Mapping[int, int]
    memories: tuple[Kept, ...]


@dataclass(frozen=True, slots=True)
class LayerCheck:
    """Equal layers together; figures are of one of them.

    Attributes:
        layers: their numbers, from 0.
        position, attention, cross_attention, feed_forward, residual, norm: the choices, complete; the third is None
            where there is no encoder to attend to.
        training_kernel, decoding_kernel: what computes the attention, and why; None where it is not done.
        cache_exact: whether decoding with a cache equals full passes, and how far; None when the model does not decode.
        parameters, active: numbers trained, and those that one token uses.
        training_flops, decoding_flops: FLOPs a token, as in `FlopsPerToken.training` and `.decoding`.
        keeps: while decoding; None when the model does not decode.
    """

    layers: tuple[int, ...]
    position: Mapping[str, Any]
    attention: Mapping[str, Any]
    cross_attention: Mapping[str, Any] | None
    feed_forward: Mapping[str, Any]
    residual: Mapping[str, Any]
    norm: Mapping[str, Any]
    training_kernel: KernelChoice | None
    decoding_kernel: KernelChoice | None
    cache_exact: CacheExact | None
    parameters: int
    active: int
    training_flops: float
    decoding_flops: float | None
    keeps: Keeps | None


class Held:
    """What is held while one text is decoded.

    Args:
        state: empty, of one row.
        source_length: tokens of the source that it will have.
    """

    def __init__(self, state: State, source_length: int) -> None:
        self.layers = state.layers
        self.source_length = source_length
        self.n_bytes = state.n_bytes + sum(
            source_length * memory.source_bytes for layer in state.layers for memory in layer if memory is not None
        )

    def layer_bytes(self, number: int) -> int:
        """Held by one layer."""
        there = (memory for memory in self.layers[number] if memory is not None)
        return sum(memory.n_bytes + self.source_length * memory.source_bytes for memory in there)


class Layers:
    """Tells of the layers of a stack."""

    def __init__(self, subject: Subject, rows: RowShape, device: torch.device, dtype: torch.dtype) -> None:
        self.run, self.rows, self.device, self.dtype = subject.run, rows, device, dtype

    def of(
        self, stack: Stack, costs: Sequence[LayerCost], shape: StackShape, held: Mapping[int, Held] | None = None
    ) -> tuple[LayerCheck, ...]:
        """The layers of one, equal ones together.

        Args:
            stack: on the meta device.
            costs: of its layers.
            shape: its.
            held: while decoding texts of some lengths; none when it does not decode.
        """
        together: dict[int, list[int]] = {}  # the first of equal layers, and all of them
        for number, layer in enumerate(costs):
            first = next((first for first in together if costs[first].config == layer.config), number)
            together.setdefault(first, []).append(number)
        return tuple(self._layer(stack, costs[numbers[0]], numbers, shape, held or {}) for numbers in together.values())

    def _layer(
        self, stack: Stack, layer: LayerCost, numbers: Sequence[int], shape: StackShape, held: Mapping[int, Held]
    ) -> LayerCheck:
        config, source_length = layer.config, self.rows.source_length or 0
        encoding = shape.stack == "encoder" and self.rows.source_length is not None
        length = source_length if encoding else self.rows.length
        training = decoding = keeps = decoding_flops = None
        if self.run is not None:
            training = training_kernel(config, shape, length, self.rows.packed, self.device, self.dtype)
        if held:
            longest = max(held)
            kept = layer.kept(longest)
            decoding = decoding_kernel(config, shape, kept, self.device, self.dtype)
            across = layer.across_flops * source_length
            decoding_flops = layer.token_flops + layer.decoding_pair_flops * kept + across
            keeps = _keeps(stack, numbers[0], held)
        exact = config.cache_exact(shape)
        of_source = (layer.source_flops / self.rows.length + layer.across_flops) * source_length
        return LayerCheck(
            layers=tuple(numbers),
            **{name: getattr(config, name).tree() for name in LAYER_FIELDS},
            cross_attention=None if config.cross_attention is None else config.cross_attention.tree(),
            training_kernel=training,
            decoding_kernel=decoding,
            cache_exact=exact if held or exact.reason else None,
            parameters=layer.parameters,
            active=layer.active,
            training_flops=(1 + BACKWARD) * (layer.token_flops + layer.pair_flops * length + of_source)
            - layer.fixed_flops * length,
            decoding_flops=decoding_flops,
            keeps=keeps,
        )


def _keeps(stack: Stack, number: int, held: Mapping[int, Held]) -> Keeps:
    longest = max(held)
    block = stack.blocks[number]
    assert isinstance(block, Block)
    names = [name for name, _ in block.sublayers()]
    memories = [
        Kept(name, memory.holds, _tokens(memory, longest), memory.token_bytes, memory.source_bytes)
        for name, memory in zip(names, held[longest].layers[number], strict=True)
        if memory is not None
    ]
    counts = [kept.tokens for kept in memories if kept.bytes_per_token]
    finite = [count for count in counts if count is not None]
    return Keeps(
        tokens=max(finite, default=0) if len(finite) == len(counts) else None,
        bytes_per_token=sum(kept.bytes_per_token for kept in memories),
        bytes=held[longest].layer_bytes(number),
        bytes_by_length={length: each.layer_bytes(number) for length, each in held.items()},
        memories=tuple(memories),
    )


def _tokens(memory: Memory, longest: int) -> int | None:
    """Of how many of the last tokens something is kept in a text as long as the model goes; None for all."""
    if memory.capacity is None:
        return 0
    return memory.capacity if memory.capacity < longest else None
