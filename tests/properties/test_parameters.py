"""Parameters: each is trained, and each starts from (seed, its own name) alone."""

import torch
from hypothesis import strategies as st

from sublayer.model import ModelConfig, Transformer
from sublayer.model.resolution import LAYER_FIELDS
from sublayer.registry import Registry
from tests.properties.composition import compositions, keeps_input, law, lively, parts, random_tokens, without_effect


@law(examples=200, composition=compositions())
def test_every_parameter_gets_a_gradient_from_the_loss(composition: ModelConfig) -> None:
    model = lively(composition)
    loss = model(random_tokens(1, 2, 8), targets=random_tokens(2, 2, 8)).loss
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient: nothing reads it"
        assert parameter.grad.isfinite().all(), name
    moved = [name for name, parameter in model.named_parameters() if (parameter.grad != 0).any()]
    # Exempt are only what a softmax cancels (a bias of keys; everything about scores where one key is in view) and
    # units that are off for all tokens or distances, with all below them where nothing goes around, and a threshold
    # that all queries but the first are beyond.
    still = {name for name, _ in model.named_parameters()} - set(moved)
    exempt = ["key", "query", "feed_forward", "threshold", *(f"positions.{n}." for n in without_effect(model))]
    if keeps_input(composition):
        assert not [name for name in still if not any(part in name for part in exempt)], still


@st.composite
def siblings(draw: st.DrawFn) -> tuple[ModelConfig, ModelConfig, str]:
    """Two compositions that differ in one field, and its name."""
    one = draw(compositions())
    field = draw(st.sampled_from(LAYER_FIELDS))
    other = draw(compositions(fixed=one.tree() | {field: draw(parts(Registry.families[field])).tree()}))
    return one, other, field


@law(examples=100, pair=siblings(), seed=st.integers(0, 3))
def test_two_compositions_start_equal_where_they_share_a_part(
    pair: tuple[ModelConfig, ModelConfig, str], seed: int
) -> None:
    one, other, field = pair
    first, second = dict(Transformer(one, seed).named_parameters()), dict(Transformer(other, seed).named_parameters())
    own = {"norm": "norm", "position": "positions."}.get(field, f".{field}.")
    shared = [name for name in first if name in second and own not in name and first[name].shape == second[name].shape]
    assert shared
    for name in shared:
        left, right = first[name], second[name]
        if field == "residual" and not torch.equal(left, right):  # it may start a matrix smaller as a whole
            left, right = left / left.norm(), right / right.norm()
        torch.testing.assert_close(left, right, rtol=1e-5 if field == "residual" else 0, atol=0, msg=name)


@law(examples=50, composition=compositions(), seed=st.integers(0, 1000))
def test_the_seed_decides_and_torch_s_generator_is_left_alone(composition: ModelConfig, seed: int) -> None:
    torch.manual_seed(seed)
    before = torch.random.get_rng_state()
    one = Transformer(composition, seed)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(seed + 1)
    again, another = Transformer(composition, seed), Transformer(composition, seed + 1)
    for (name, first), second in zip(one.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(first, second), name
    assert not torch.equal(one.embedding.weight, another.embedding.weight)


@law(examples=50, composition=compositions())
def test_a_model_on_the_meta_device_has_the_same_parameters(composition: ModelConfig) -> None:
    with torch.device("meta"):
        ghost = Transformer(composition)
    real = Transformer(composition)
    assert {name: p.shape for name, p in ghost.named_parameters()} == {
        name: p.shape for name, p in real.named_parameters()
    }
    assert ghost.n_parameters() == real.n_parameters()


@law(examples=100, composition=compositions(dropout=True))
def test_a_config_written_out_and_read_again_is_the_same(composition: ModelConfig) -> None:
    again = ModelConfig.parse(composition.tree())
    assert again == composition
    assert again.resolve() == composition.resolve()
