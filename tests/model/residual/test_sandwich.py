"""Norms on both sides of a sublayer, against a block written by hand and Gemma 2's."""

import torch
from transformers import Gemma2Config
from transformers.models.gemma2.modeling_gemma2 import Gemma2DecoderLayer, Gemma2RMSNorm, Gemma2RotaryEmbedding

from sublayer.model.residual.sandwich import SandwichConfig
from tests.model.residual.blocks import attention, built, feed_forward, logits, model, norm, wired


def test_what_a_sublayer_writes_is_normalised_as_well() -> None:
    transformer = model("sandwich", n_layers=2)
    tokens = torch.randint(0, 7, (2, 5))
    x = torch.nn.functional.embedding(tokens, transformer.embedding.weight)
    for layer in range(2):
        x = x + norm(attention(transformer, layer, norm(x)))
        x = x + norm(feed_forward(transformer, layer, norm(x)))
    torch.testing.assert_close(transformer(tokens).logits, logits(transformer, norm(x)), rtol=1e-4, atol=1e-4)


def test_each_norm_has_a_scale_of_its_own() -> None:
    residual = model("sandwich").blocks[0].residual
    with torch.no_grad():
        for number, parameter in enumerate((*residual.norms.parameters(), *residual.output_norms.parameters())):
            parameter.fill_(number + 1.0)  # scale 1 and shift 2, 3 and 4; then 5 and 6, 7 and 8
    x = torch.randn(2, 5, 8)
    expected = x + norm(2 * (norm(x) + 2)) * 5 + 6
    expected = expected + norm((3 * norm(expected) + 4) ** 2) * 7 + 8
    torch.testing.assert_close(wired(residual, [lambda y: 2 * (y + 0.0), torch.square], x), expected)


def test_gemma_2_is_wired_so() -> None:
    torch.manual_seed(0)
    config = Gemma2Config(
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        num_hidden_layers=2,
    )
    config._attn_implementation = "eager"
    layer = Gemma2DecoderLayer(config, 0).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.ndim == 1:
                parameter.normal_(std=0.3)
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    angles = Gemma2RotaryEmbedding(config)(x, torch.arange(5)[None])
    before = [layer.input_layernorm, layer.pre_feedforward_layernorm]
    assert all(isinstance(each, Gemma2RMSNorm) for each in before)
    residual = built(SandwichConfig(), 16, before)
    residual.output_norms = torch.nn.ModuleList([layer.post_attention_layernorm, layer.post_feedforward_layernorm])
    boxes = [lambda y: layer.self_attn(y, position_embeddings=angles, attention_mask=None)[0], layer.mlp]
    torch.testing.assert_close(wired(residual, boxes, x), layer(x, position_embeddings=angles))
