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
from sublayer.model.part import ModelPart, StackShape
from sublayer.model.resolution import CROSS, LayerConfig
from sublayer.model.stack import Stack
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
        decoding_pair_flops: the same in a decoding step, which may be computed in another way.
        pattern: which keys a query sees.
        source_flops: forward FLOPs that a token of the source costs here, in a cross-attention.
        across_flops: forward FLOPs that a query and a token of the source cost.
        fixed_flops: of `pair_flops`, those of products with numbers that have no gradient.
        idle_flops: forward FLOPs that a token would cost besides if it went to all experts.
    """

    config: LayerConfig
    parameters: int
    active: int
    token_flops: float
    pair_flops: int
    decoding_pair_flops: int
    pattern: Pattern
    source_flops: float = 0.0
    across_flops: int = 0
    fixed_flops: int = 0
    idle_flops: float = 0.0

    def keys(self, length: int, pairs: Pairs) -> float:
        """Keys that a query of a document of this length meets, on average."""
        return length if pairs == "all" else self.pattern.n_pairs(length) / length

    def kept(self, length: int) -> int:
        """Keys that stand in the cache when a token is decoded behind `length − 1` others."""
        most = self.pattern.reach.kept
        return length if most is None else min(length, most)


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What a model costs.

    Attributes:
        parameters: of the whole model.
        layers: what each layer costs; of an encoder_decoder, each of its decoder.
        outside_flops: forward FLOPs a token outside the layers: the output matrix, and positions put into embeddings.
        encoder_layers: what each layer of an encoder_decoder's encoder costs, where a token is one of the source.
    """

    parameters: Parameters
    layers: tuple[LayerCost, ...]
    outside_flops: float
    encoder_layers: tuple[LayerCost, ...] = ()

    def forward_flops(self, length: int, pairs: Pairs = "all", source_length: int = 0) -> float:
        """FLOPs a token of a forward pass over documents of `length` tokens.

        Args:
            length: of a document; of an encoder_decoder, of what its decoder reads.
            pairs: which of queries and keys count.
            source_length: tokens of the source of each document, whose cost is divided among the document's tokens.
        """
        across = sum(layer.across_flops * source_length for layer in self.layers)
        source = _stack_flops(self.encoder_layers, source_length, pairs) if source_length else 0.0
        source += sum(layer.source_flops for layer in self.layers)
        own = self.outside_flops + _stack_flops(self.layers, length, pairs)
        return own + across + source * source_length / length

    def training_flops(self, length: int, pairs: Pairs = "all", source_length: int = 0) -> float:
        """FLOPs a token of a forward and a backward pass; as `forward_flops`."""
        fixed = _fixed_flops(self.layers, length, pairs)
        if source_length:
            fixed += _fixed_flops(self.encoder_layers, source_length, pairs) * source_length / length
        return (1 + BACKWARD) * self.forward_flops(length, pairs, source_length) - fixed

    def idle_flops(self, length: int, source_length: int = 0) -> float:
        """FLOPs a token that training would cost besides if each token went to all experts; as `forward_flops`."""
        own = sum(layer.idle_flops for layer in self.layers)
        of_source = sum(layer.idle_flops for layer in self.encoder_layers) * source_length / length
        return (1 + BACKWARD) * (own + of_source)

    def decoding_flops(self, length: int, source_length: int = 0) -> float:
        """FLOPs of decoding one token that is the `length`th of its text: every key in the caches is met."""
        return self.outside_flops + sum(
            layer.token_flops + layer.decoding_pair_flops * layer.kept(length) + layer.across_flops * source_length
            for layer in self.layers
        )


def _stack_flops(layers: Sequence[LayerCost], length: int, pairs: Pairs) -> float:
    """FLOPs a token of a forward pass through layers."""
    keys = _keys(layers, length, pairs)
    return sum(layer.token_flops + layer.pair_flops * keys[str(layer.pattern)] for layer in layers)


def _fixed_flops(layers: Sequence[LayerCost], length: int, pairs: Pairs) -> float:
    """FLOPs a token that a backward pass through layers does without."""
    keys = _keys(layers, length, pairs)
    return sum(layer.fixed_flops * keys[str(layer.pattern)] for layer in layers)


def _keys(layers: Sequence[LayerCost], length: int, pairs: Pairs) -> dict[str, float]:
    """Keys that a query meets, by the pattern's name: patterns that print alike are alike."""
    keys: dict[str, float] = {}
    for layer in layers:
        if str(layer.pattern) not in keys:
            keys[str(layer.pattern)] = layer.keys(length, pairs)
    return keys


def cost(model: Transformer) -> ModelCost:
    """What `model` costs; one on the meta device will do (`model.ghost`)."""
    config = model.config
    layers = _layer_costs(model, config.resolve(), config.shape)
    encoder_layers: tuple[LayerCost, ...] = ()
    if model.encoder is not None:
        encoder_layers = _layer_costs(model.encoder, config.resolve_encoder(), config.encoder_shape)
    outside = config.head.token_flops(_shapes(model.head))
    if config.head.by_token and config.tied_embeddings:
        outside += 2 * model.embedding.weight.numel()
    first = config.resolve()[0].position
    if first.embeds:
        outside += first.token_flops(_shapes(model.position(0)))
    total = model.n_parameters()
    idle = sum(layer.parameters - layer.active for layer in (*layers, *encoder_layers))
    return ModelCost(
        Parameters(total, model.n_parameters(embeddings=False), total - idle), layers, outside, encoder_layers
    )


def _layer_costs(stack: Stack, configs: Sequence[LayerConfig], shape: StackShape) -> tuple[LayerCost, ...]:
    counted: list[tuple[LayerConfig, LayerCost]] = []
    layers = []
    for number, layer in enumerate(configs):
        known = next((each for like, each in counted if like == layer), None)
        if known is None:
            known = _layer_cost(stack, number, layer, shape)
            counted.append((layer, known))
        layers.append(known)
    return tuple(layers)


def _layer_cost(stack: Stack, number: int, layer: LayerConfig, shape: StackShape) -> LayerCost:
    block = stack.blocks[number]
    assert isinstance(block, Block)
    boxes: list[tuple[str, nn.Module]] = [*block.sublayers(), ("residual", block.residual)]
    parts: list[tuple[ModelPart, nn.Module]] = [(getattr(layer, name), module) for name, module in boxes]
    shared = [] if layer.position.embeds else [(layer.position, stack.position(number))]
    across = layer.cross_attention
    source_flops = 0.0 if across is None else across.source_flops(_shapes(block.get_submodule(CROSS)))
    heads = layer.attention.heads()
    n_parameters = sum(math.prod(size) for _, module in parts for size in _shapes(module).values())
    by_itself = sum(part.token_flops(_shapes(module)) for part, module in [*parts, *shared])
    maps = layer.attention.maps
    by_position = maps * layer.position.pair_flops(heads)
    return LayerCost(
        config=layer,
        parameters=n_parameters,
        active=round(sum(_active(part, _shapes(module)) for part, module in parts)),
        token_flops=by_itself + maps * layer.position.query_flops(shape, heads) - source_flops,
        pair_flops=layer.attention.pair_flops() + by_position,
        decoding_pair_flops=layer.attention.decoding_pair_flops() + by_position,
        fixed_flops=maps * layer.position.fixed_flops(heads),
        idle_flops=sum(part.idle_flops(_shapes(module)) for part, module in parts),
        pattern=layer.attention.seen(shape.direction),
        source_flops=source_flops,
        across_flops=0 if across is None else across.pair_flops(),
    )


def _active(part: ModelPart, shapes: Mapping[str, Sequence[int]]) -> float:
    return sum(math.prod(shape) * part.active_share(name) for name, shape in shapes.items())


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
