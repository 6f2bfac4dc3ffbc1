"""LayerScale against a block written by hand and DINOv2's."""

import pytest
import torch
from transformers import Dinov2Config
from transformers.models.dinov2.modeling_dinov2 import Dinov2Layer

from sublayer.model.residual.layer_scale import LayerScaleConfig
from tests.model.residual.blocks import attention, built, feed_forward, logits, model, norm, wired


def test_each_feature_of_a_sublayer_s_output_is_scaled() -> None:
    transformer = model("layer_scale", n_layers=2)
    scales = torch.randn(2, 2, 8)
    with torch.no_grad():
        for layer, block in enumerate(transformer.blocks):
            for i, scale in enumerate(block.residual.scales_D):
                scale.copy_(scales[layer, i])
    tokens = torch.randint(0, 7, (2, 5))
    x = torch.nn.functional.embedding(tokens, transformer.embedding.weight)
    for layer in range(2):
        x = x + scales[layer, 0] * attention(transformer, layer, norm(x))
        x = x + scales[layer, 1] * feed_forward(transformer, layer, norm(x))
    torch.testing.assert_close(transformer(tokens).logits, logits(transformer, norm(x)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("n_layers", "given", "initial"),
    [(1, None, 0.1), (18, None, 0.1), (24, None, 1e-5), (25, None, 1e-6), (2, 0.5, 0.5)],
)
def test_what_scales_start_from(n_layers: int, given: float | None, initial: float) -> None:
    transformer = model({"kind": "layer_scale", "initial": given}, n_layers=n_layers)
    for block in transformer.blocks:
        for scale in block.residual.scales_D:
            assert scale.tolist() == pytest.approx([initial] * 8)


def test_dinov2_is_wired_so() -> None:
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_attention_heads=2, mlp_ratio=2, num_hidden_layers=1)
    config._attn_implementation = "eager"
    layer = Dinov2Layer(config).double().eval()
    norms, scales = [layer.norm1, layer.norm2], [layer.layer_scale1.lambda1, layer.layer_scale2.lambda1]
    for parameter in (*(each.weight for each in norms), *scales):
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    residual = built(LayerScaleConfig(), 16, norms)
    residual.scales_D = torch.nn.ParameterList(scales)
    torch.testing.assert_close(wired(residual, [lambda y: layer.attention(y)[0], layer.mlp], x), layer(x))
