"""What layers share in one pass (masks, angles, biases) is what each would have made for itself."""

import torch
from torch import Tensor

from sublayer.model import Encoded, Layout, ModelConfig
from sublayer.model.layout import Span
from sublayer.model.stack import Stack
from sublayer.model.sublayer import Context
from tests.properties.composition import VOCAB_SIZE, assert_equal_logits, compositions, law, lively, random_tokens

DIFFERING = {
    "n_layers": 2,
    "attention": {"n_heads": 4, "pattern": {"kind": "window", "size": 3}},
    "cross_attention": None,
    "layers": [{}, {"attention": {"n_heads": 2, "pattern": {"size": 5}}}],
}


def in_isolation(composition: ModelConfig, layout: Layout) -> tuple[Tensor, Tensor]:
    """The logits of one pass, and of a pass in which every layer gets a layout of its own."""
    model, tokens = lively(composition), random_tokens(1, 2, 9)
    read = None if model.encoder is None else random_tokens(2, 2, 5)
    together = model(tokens, layout, source=read).logits
    assert together.shape == (2, 9, VOCAB_SIZE)

    def through(stack: Stack, tokens: Tensor, layout: Layout, source: Encoded | None) -> Tensor:
        x = model.embedding(tokens, layout.resolved(tokens.shape[1], model.device), stack.position(0))
        for number, block in enumerate(stack.blocks):
            own = layout.resolved(tokens.shape[1], model.device)
            span = Span.within(own, layout.plain)
            x, _ = block(x, Context(own, span, stack.position(number), source, tokens_BT=tokens))
        return stack.normalised(x)

    source = None
    if model.encoder is not None and read is not None:
        source = Encoded(through(model.encoder, read, Layout(), None), Layout().resolved(5, model.device))
    return together, model.head(through(model, tokens, layout, source), layout, model.embedding.weight)


@law(examples=60, composition=compositions())
def test_a_layer_computes_what_it_would_alone(composition: ModelConfig) -> None:
    with torch.no_grad():
        together, alone = in_isolation(composition, Layout())
    assert_equal_logits(together, alone, atol=1e-9)


@law(examples=40, composition=compositions(stack=("decoder", "encoder"), fixed=DIFFERING))
def test_layers_of_unequal_heads_and_windows_keep_their_own(composition: ModelConfig) -> None:
    with torch.no_grad():
        together, alone = in_isolation(composition, Layout.ragged([9, 6]))
    assert_equal_logits(together[0], alone[0], atol=1e-9)
    assert_equal_logits(together[1, :6], alone[1, :6], atol=1e-9)
