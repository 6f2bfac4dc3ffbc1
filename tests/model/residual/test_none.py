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


def test_attention_alone_loses_rank_and_a_residual_keeps_it() -> None:
    """Dong et al. 2021, theorem 1: without skip connections all tokens become the same, doubly exponentially fast."""

    def left(residual: str) -> list[float]:
        transformer = model(residual, n_layers=4, d_model=32, stack="encoder", feed_forward="none").double()
        x = torch.randn(24, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        transformer.embedding.weight.data = x
        outputs: list[torch.Tensor] = []
        for block in transformer.blocks:
            block.register_forward_hook(lambda module, inputs, output: outputs.append(output[0]))
        transformer(torch.arange(24)[None])
        return [((y - y.mean(1, keepdim=True)).norm() / y.norm()).item() for y in outputs]

    alone, around = left("none"), left("pre_norm")
    assert alone[0] < 0.9
    assert alone[1] < alone[0] ** 3  # cubed by each layer, the theorem says
    assert alone[2] < alone[1] ** 3
    assert min(around) > 0.5
