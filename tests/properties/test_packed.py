"""A packed model computes in bfloat16 what the model does, in every composition."""

import torch

from sublayer.model import ModelConfig
from tests.properties.composition import compositions, law, lively, random_tokens, source_for


@law(examples=25, composition=compositions())
def test_packed_is_the_same_in_bfloat16(composition: ModelConfig) -> None:
    model = lively(composition).bfloat16()
    n_parameters = model.n_parameters(), model.n_parameters(embeddings=False)
    tokens, source = random_tokens(1, 2, 9), source_for(model, 2)
    parameters = list(model.parameters())
    with torch.no_grad():
        expected = model(tokens, source=source).logits
        actual = model.pack()(tokens, source=source).logits
    assert model.packed
    # The sums are made in another order, and each layer's result is then rounded to 8 bits.
    assert (actual - expected).abs().max() <= 0.1 * (1 + expected.abs().max())
    assert (model.n_parameters(), model.n_parameters(embeddings=False)) == n_parameters
    model.unpack()
    assert not model.packed
    assert all(left is right for left, right in zip(model.parameters(), parameters, strict=True))
