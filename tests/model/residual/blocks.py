"""A small model and its boxes written by hand, for wirings to be compared with; and a wiring around another's boxes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sublayer.model import ModelConfig, Transformer
from sublayer.model.part import StackShape
from sublayer.model.report import EMPTY
from sublayer.model.residual import Residual, ResidualConfig


def model(residual: object, n_layers: int = 1, **changes: object) -> Transformer:
    """A small decoder of attention and ReLU feed-forward with LayerNorm, and no positions."""
    config = ModelConfig(
        **{
            "vocab_size": 7,
            "d_model": 8,
            "n_layers": n_layers,
            "position": "none",
            "attention": {"n_heads": 2},
            "feed_forward": "relu",
            "residual": residual,
            "norm": "layer",
            "initialisation": {"std": None, "embedding_std": 1.0},
        }
        | changes
    )
    return Transformer(config)


def norm(x: Tensor) -> Tensor:
    """LayerNorm with scale 1 and shift 0."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def attention(model: Transformer, layer: int, x: Tensor) -> Tensor:
    """Causal attention of two heads, with the weights of a layer."""
    module = model.blocks[layer].attention
    q, k, v = (
        linear(x).view(*x.shape[:2], 2, 4).transpose(1, 2) for linear in (module.query, module.key, module.value)
    )
    scores = (q @ k.transpose(-1, -2) / 2).masked_fill(torch.ones(x.shape[1], x.shape[1]).triu(1).bool(), -torch.inf)
    return module.output((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def feed_forward(model: Transformer, layer: int, x: Tensor) -> Tensor:
    """relu(x W_1) W_2, with the weights of a layer."""
    module = model.blocks[layer].feed_forward
    return module.down(torch.relu(module.up(x)))


def logits(model: Transformer, x: Tensor) -> Tensor:
    """Of the last hidden states, with the embedding as output matrix."""
    return x @ model.embedding.weight.T


def lively(model: Transformer) -> Transformer:
    """The model with what starts as a constant disturbed, so that all of it counts."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def wired(residual: Residual, boxes: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """What a wiring makes of any boxes."""
    stream = residual.enter(x)
    for i, box in enumerate(boxes):
        stream, _ = residual.around(i, lambda y, box=box: (box(y), EMPTY), stream)
    return residual.leave(stream)


def built(config: ResidualConfig, d_model: int, norms: Sequence[nn.Module], n_layers: int = 1) -> Residual:
    """The wiring of a decoder's first layer of two sublayers, with LayerNorms that have another model's weights."""
    shape = StackShape("decoder", d_model, n_layers, 16)
    norm = ModelConfig(norm={"kind": "layer", "epsilon": norms[0].eps}).norm
    residual = config.filled(shape).build(shape, norm, 2, 0)
    residual.norms = nn.ModuleList(norms)
    return residual
