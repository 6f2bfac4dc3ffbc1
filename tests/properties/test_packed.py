"""A packed model computes what the model does, in every composition; unpacked, it is the model again."""

import pytest
import torch

from sublayer.model import ModelConfig
from tests.properties.composition import FEW_AND_MANY, compositions, examine, lively, random_tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("times", FEW_AND_MANY)
def test_packed_is_the_same_and_comes_back_whole(dtype: torch.dtype, times: int) -> None:
    def check(composition: ModelConfig) -> None:
        model = lively(composition).to(dtype).eval()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        n_parameters = model.n_parameters(), model.n_parameters(embeddings=False)
        order = list(model.state_dict())
        parameters = list(model.parameters())
        tokens = random_tokens(1, 2, 9)
        with torch.no_grad():
            expected = model(tokens).logits
            actual = model.pack()(tokens).logits
        assert model.packed
        # The sums are made in another order; in bfloat16 each layer's result is then rounded to 8 bits.
        room = 1e-4 if dtype == torch.float32 else 0.1
        assert (actual - expected).abs().max() <= room * (1 + expected.abs().max())

        packed = model.state_dict()
        assert list(packed) == order
        assert all(torch.equal(packed[name], tensor) for name, tensor in before.items())
        assert (model.n_parameters(), model.n_parameters(embeddings=False)) == n_parameters
        model.unpack()
        assert not model.packed
        assert all(left is right for left, right in zip(model.parameters(), parameters, strict=True))
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        with torch.no_grad():
            assert torch.equal(model(tokens).logits, expected)

    examine(check, 25 * times, fixed=times == 1, composition=compositions())
