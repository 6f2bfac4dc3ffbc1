"""A norm on what a sublayer writes and none on what it reads, against a block written by hand."""

import torch

from tests.model.residual.blocks import attention, feed_forward, logits, model, norm, wired


def test_only_what_a_sublayer_writes_is_normalised() -> None:
    transformer = model("res_post_norm", n_layers=2)
    tokens = torch.randint(0, 7, (2, 5))
    x = torch.nn.functional.embedding(tokens, transformer.embedding.weight)
    for layer in range(2):
        x = x + norm(attention(transformer, layer, x))
        x = x + norm(feed_forward(transformer, layer, x))
    torch.testing.assert_close(transformer(tokens).logits, logits(transformer, norm(x)), rtol=1e-4, atol=1e-4)


def test_each_norm_has_a_scale_of_its_own() -> None:
    residual = model("res_post_norm").blocks[0].residual
    with torch.no_grad():
        for number, parameter in enumerate(residual.output_norms.parameters()):
            parameter.fill_(number + 1.0)  # scale 1 and shift 2; then 3 and 4
    x = torch.randn(2, 5, 8)
    expected = x + norm(2 * x) + 2
    expected = expected + norm(expected**2) * 3 + 4
    torch.testing.assert_close(wired(residual, [lambda y: 2 * y, torch.square], x), expected)
