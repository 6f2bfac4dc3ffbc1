"""Sublayers side by side, against a block written by hand, GPT-J's and GPT-NeoX's."""

import pytest
import torch
from transformers import GPTJConfig, GPTNeoXConfig
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXLayer, GPTNeoXRotaryEmbedding
from transformers.models.gptj.modeling_gptj import GPTJBlock

from sublayer.model.residual.parallel import ParallelConfig
from tests.model.residual.blocks import attention, built, feed_forward, logits, model, norm, wired


@pytest.mark.parametrize("shared", [True, False])
def test_both_sublayers_read_the_block_s_input(shared: bool) -> None:
    transformer = model({"kind": "parallel", "shared_norm": shared}, n_layers=2)
    assert [len(block.residual.norms) for block in transformer.blocks] == [1, 1] if shared else [2, 2]
    tokens = torch.randint(0, 7, (2, 5))
    x = torch.nn.functional.embedding(tokens, transformer.embedding.weight)
    for layer in range(2):
        read = norm(x)
        x = x + attention(transformer, layer, read) + feed_forward(transformer, layer, read)
    torch.testing.assert_close(transformer(tokens).logits, logits(transformer, norm(x)), rtol=1e-4, atol=1e-4)


def test_three_sublayers_read_the_same_too() -> None:
    residual = model("parallel").blocks[0].residual
    x = torch.randn(2, 5, 8)
    expected = x + norm(x) ** 2 + norm(x).sin() + norm(x).exp()
    torch.testing.assert_close(wired(residual, [torch.square, torch.sin, torch.exp], x), expected)


def test_gpt_j_is_wired_so() -> None:
    torch.manual_seed(0)
    config = GPTJConfig(n_embd=16, n_head=2, n_positions=8, rotary_dim=4, n_layer=1)
    config._attn_implementation = "eager"
    block = GPTJBlock(config, 0).double().eval()
    torch.nn.init.normal_(block.ln_1.weight)
    x, places = torch.randn(2, 5, 16, dtype=torch.float64), torch.arange(5)[None].expand(2, -1)
    residual = built(ParallelConfig(), 16, [block.ln_1])
    boxes = [lambda y: block.attn(y, position_ids=places)[0], block.mlp]
    torch.testing.assert_close(wired(residual, boxes, x), block(x, position_ids=places)[0])


def test_gpt_neox_is_wired_so_with_a_norm_for_each() -> None:
    torch.manual_seed(0)
    config = GPTNeoXConfig(hidden_size=16, num_attention_heads=2, intermediate_size=24, num_hidden_layers=1)
    config._attn_implementation = "eager"
    layer = GPTNeoXLayer(config, 0).double().eval()
    norms = [layer.input_layernorm, layer.post_attention_layernorm]
    for each in norms:
        torch.nn.init.normal_(each.weight)
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    angles = GPTNeoXRotaryEmbedding(config)(x, torch.arange(5)[None])
    boxes = [lambda y: layer.attention(y, attention_mask=None, position_embeddings=angles)[0], layer.mlp]
    residual = built(ParallelConfig(shared_norm=False), 16, norms)
    expected = layer(x, attention_mask=None, position_embeddings=angles)
    torch.testing.assert_close(wired(residual, boxes, x), expected)
