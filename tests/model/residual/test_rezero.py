"""ReZero: the identity at the start, and x + α·Sublayer(x) then."""

import torch

from tests.model.residual.blocks import attention, feed_forward, logits, model


def test_at_the_start_the_stack_is_the_identity() -> None:
    transformer = model("rezero", n_layers=3)
    assert transformer.final_norm is None
    assert not [name for name, _ in transformer.named_parameters() if "norm" in name]
    tokens = torch.randint(0, 7, (2, 5))
    torch.testing.assert_close(
        transformer(tokens).logits,
        logits(transformer, torch.nn.functional.embedding(tokens, transformer.embedding.weight)),
    )


def test_each_sublayer_is_scaled_by_a_number_of_its_own() -> None:
    transformer = model("rezero", n_layers=2)
    alphas = [[0.3, -0.7], [1.1, 0.2]]
    with torch.no_grad():
        for block, alpha in zip(transformer.blocks, alphas, strict=True):
            block.residual.alpha.copy_(torch.tensor(alpha))
    tokens = torch.randint(0, 7, (2, 5))
    x = torch.nn.functional.embedding(tokens, transformer.embedding.weight)
    for layer, (first, second) in enumerate(alphas):
        x = x + first * attention(transformer, layer, x)
        x = x + second * feed_forward(transformer, layer, x)
    torch.testing.assert_close(transformer(tokens).logits, logits(transformer, x), rtol=1e-4, atol=1e-4)


def test_the_first_step_moves_the_numbers_away_from_zero() -> None:
    transformer = model("rezero", n_layers=2)
    tokens = torch.randint(0, 7, (2, 5))
    transformer(tokens, targets=tokens.roll(-1, 1)).loss.backward()
    for block in transformer.blocks:
        assert bool((block.residual.alpha.grad != 0).all())
        assert block.attention.value.weight.grad.count_nonzero() == 0
