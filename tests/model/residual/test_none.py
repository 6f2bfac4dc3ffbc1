"""Sublayers in a row, with nothing around them."""

import pytest
import torch

from sublayer.model.part import StackShape
from sublayer.model.residual.none import NoResidualConfig
from tests.model.residual.blocks import attention, feed_forward, logits, model, norm


@pytest.mark.parametrize("normalised", [False, True])
def test_a_sublayer_s_output_is_the_next_one_s_input(normalised: bool) -> None:
    transformer = model({"kind": "none", "norm": normalised}, n_layers=2)
    assert transformer.final_norm is None
    tokens = torch.randint(0, 7, (2, 5))
    x = torch.nn.functional.embedding(tokens, transformer.embedding.weight)
    for layer in range(2):
        for box in (attention, feed_forward):
            x = box(transformer, layer, norm(x) if normalised else x)
    torch.testing.assert_close(transformer(tokens).logits, logits(transformer, x), rtol=1e-4, atol=1e-5)


def test_stochastic_depth_is_refused_as_nothing_would_be_left() -> None:
    with pytest.raises(ValueError, match="set stochastic_depth: 0 or choose another residual"):
        NoResidualConfig().filled(StackShape("decoder", 8, 2, 16, stochastic_depth=0.1))
    assert NoResidualConfig().filled(StackShape("decoder", 8, 2, 16)) == NoResidualConfig()
