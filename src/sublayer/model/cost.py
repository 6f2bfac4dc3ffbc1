"""What a model costs: parameters and FLOPs, counted from the configs of its layers and the shapes of its weights.

A multiplication and an addition are two FLOPs.  Only products of matrices are counted, as everyone does: they are
almost all of the work.  Looking up embeddings is free; the output matrix is counted.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from sublayer.model.attention.pattern.base import Pattern
from sublayer.model.block import Block
from sublayer.model.config import LayerConfig
from sublayer.model.part import ModelPart
from sublayer.model.transformer import Transformer

Pairs = Literal["all", "visible"]
"""Which query-key pairs count: all of a sequence, as in Chowdhery et al. 2022, appendix B, or those in sight."""

BACKWARD = 2
"""FLOPs of the backward pass over those of the forward pass: a product has a gradient for each of its factors."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """How many numbers are trained.

    Attributes:
        total: all of them.
        non_embedding: without the token embedding and an output matrix of its own.
        active: those that take part in the computation of a token; fewer where a token goes to some experts only.
    """

    total: int
    non_embedding: int
    active: int


@dataclass(frozen=True, slots=True)
class LayerCost:
    """What one layer costs.

    Attributes:
        config: complete.
        parameters: numbers trained in the layer.
        active: those that one token uses.
        token_flops: forward FLOPs that a token costs by itself.
        pair_flops: forward FLOPs that a query and a key cost.
        pattern: which keys a query sees.
    """

    config: LayerConfig
    parameters: int
    active: int
    token_flops: float
    pair_flops: int
    pattern: Pattern

    def keys(self, length: int, pairs: Pairs) -> float:
        """Keys that a query of a document of this length meets, on average."""
        return length if pairs == "all" else self.pattern.n_pairs(length) / length

    def kept(self, length: int) -> int:
        """Keys that stand in the cache when a token is decoded behind `length − 1` others."""
        window = self.pattern.reach.window
        return length if window is None else min(length, window)


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What a model costs.

    Attributes:
        parameters: of the whole model.
        layers: what each layer costs.
        outside_flops: forward FLOPs a token outside the layers: the output matrix, and positions put into embeddings.
    """

    parameters: Parameters
    layers: tuple[LayerCost, ...]
    outside_flops: float

    def forward_flops(self, length: int, pairs: Pairs = "all") -> float:
        """FLOPs a token of a forward pass over documents of `length` tokens."""
        keys: dict[str, float] = {}  # patterns that print alike are alike
        for layer in self.layers:
            if str(layer.pattern) not in keys:
                keys[str(layer.pattern)] = layer.keys(length, pairs)
        return self.outside_flops + sum(
            layer.token_flops + layer.pair_flops * keys[str(layer.pattern)] for layer in self.layers
        )

    def training_flops(self, length: int, pairs: Pairs = "all") -> float:
        """FLOPs a token of a forward and a backward pass over documents of `length` tokens."""
        return (1 + BACKWARD) * self.forward_flops(length, pairs)

    def decoding_flops(self, length: int) -> float:
        """FLOPs of decoding one token that is the `length`th of its text: every key in the caches is met."""
        return self.outside_flops + sum(
            layer.token_flops + layer.pair_flops * layer.kept(length) for layer in self.layers
        )


def cost(model: Transformer) -> ModelCost:
    """What `model` costs; one on the meta device will do (`model.ghost`)."""
    config = model.config
    counted: list[tuple[LayerConfig, LayerCost]] = []
    layers = []
    for number, layer in enumerate(config.resolve()):
        known = next((each for like, each in counted if like == layer), None)
        if known is None:
            known = _layer_cost(model, number, layer)
            counted.append((layer, known))
        layers.append(known)
    first, output = config.resolve()[0].position, model.embedding if model.head is None else model.head
    total = model.n_parameters()
    idle = sum(layer.parameters - layer.active for layer in layers)
    return ModelCost(
        Parameters(total, model.n_parameters(embeddings=False), total - idle),
        tuple(layers),
        2 * output.weight.numel() + (first.token_flops(_shapes(model.position(0))) if first.embeds else 0),
    )


def _layer_cost(model: Transformer, number: int, layer: LayerConfig) -> LayerCost:
    block = model.blocks[number]
    assert isinstance(block, Block)
    parts: list[tuple[ModelPart, nn.Module]] = [(layer.attention, block.attention), (layer.residual, block.residual)]
    if block.feed_forward is not None:
        parts.append((layer.feed_forward, block.feed_forward))
    shared = [] if layer.position.embeds else [(layer.position, model.position(number))]
    heads = layer.attention.heads()
    n_parameters = sum(math.prod(shape) for _, module in parts for shape in _shapes(module).values())
    return LayerCost(
        config=layer,
        parameters=n_parameters,
        active=round(sum(_active(part, _shapes(module)) for part, module in parts)),
        token_flops=sum(part.token_flops(_shapes(module)) for part, module in [*parts, *shared])
        + layer.position.query_flops(model.config.shape, heads),
        pair_flops=layer.attention.pair_flops() + layer.position.pair_flops(heads),
        pattern=layer.attention.seen(model.config.shape.direction),
    )


def _active(part: ModelPart, shapes: Mapping[str, Sequence[int]]) -> float:
    return sum(math.prod(shape) * part.active_share(name) for name, shape in shapes.items())


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
