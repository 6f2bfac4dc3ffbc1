"""What layers share in one pass (masks, angles, biases) is what each would have made for itself."""

import torch

from sublayer.model import Layout, ModelConfig
from sublayer.model.layout import Span
from sublayer.model.sublayer import Context
from tests.properties.composition import VOCAB_SIZE, assert_equal_logits, compositions, law, lively, random_tokens

DIFFERING = {
    "n_layers": 2,
    "attention": {"n_heads": 4, "pattern": {"kind": "window", "size": 3}},
    "layers": [{}, {"attention": {"n_heads": 2, "pattern": {"size": 5}}}],
}


def in_isolation(composition: ModelConfig, layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of one pass, and of a pass in which every layer gets a layout of its own."""
    model, tokens = lively(composition), random_tokens(1, 2, 9)
    together = model(tokens, layout).logits
    x = model.embedding(tokens, layout.resolved(9, model.device), model.positions[0])
    for number, block in enumerate(model.blocks):
        own = layout.resolved(9, model.device)
        position = model.positions[model._position_of[number]]
        x, _ = block(x, Context(own, Span.within(own, layout.plain), position))
    assert together.shape == (2, 9, VOCAB_SIZE)
    return together, model.head(model.normalised(x), layout, model.embedding.weight)


@law(examples=60, composition=compositions())
def test_a_layer_computes_what_it_would_alone(composition: ModelConfig) -> None:
    together, alone = in_isolation(composition, Layout())
    assert_equal_logits(together, alone, atol=1e-9)


@law(examples=40, composition=compositions(fixed=DIFFERING))
def test_layers_of_unequal_heads_and_windows_keep_their_own(composition: ModelConfig) -> None:
    together, alone = in_isolation(composition, Layout.ragged([9, 6]))
    assert_equal_logits(together[0], alone[0], atol=1e-9)
    assert_equal_logits(together[1, :6], alone[1, :6], atol=1e-9)
