"""What a composition must be blind to: the origin of relative positions, the order of tokens, its batch-mates."""

import torch
from hypothesis import assume
from hypothesis import strategies as st

from sublayer.model import Layout, ModelConfig, Transformer
from sublayer.model.position import PositionConfig
from tests.properties.composition import (
    assert_equal_logits,
    compositions,
    keeps_input,
    law,
    lively,
    random_tokens,
    without_effect,
)


def shift_invariant(config: ModelConfig) -> bool:
    """Whether every position says so, and no pattern keeps single positions in view."""
    model = Transformer(config)
    patterns = [getattr(block.attention, "pattern", None) for block in model.blocks]
    parts = [part for layer in config.resolve() for _, part in layer.parts()]
    return all(getattr(part, "shift_invariant", True) for part in parts) and all(
        pattern is None or pattern.reach.pinned == 0 for pattern in patterns
    )


relative = st.sampled_from(sorted(part.kind_name() for part in PositionConfig.registry if part.shift_invariant))


@law(
    examples=100,
    composition=relative.flatmap(lambda kind: compositions(fixed={"position": kind})),
    shift=st.integers(1, 100),
    ragged=st.booleans(),
)
def test_shifting_all_positions_changes_nothing_for_relative_encodings(
    composition: ModelConfig, shift: int, ragged: bool
) -> None:
    assume(shift_invariant(composition))
    model = lively(composition)
    tokens, positions = random_tokens(1, 2, 9), torch.arange(9).repeat(2, 1)
    if ragged:  # steps of more than one
        positions = positions + torch.tensor([[0, 0, 3, 3, 3, 7, 7, 7, 7]])
    base = model(tokens, Layout(positions_BT=positions)).logits
    shifted = model(tokens, Layout(positions_BT=positions + shift)).logits
    assert_equal_logits(shifted, base, atol=1e-3)  # rope's angles are in float32


@law(
    examples=15,
    composition=st.sampled_from(
        sorted(part.kind_name() for part in PositionConfig.registry if not part.shift_invariant)
    ).flatmap(lambda kind: compositions(fixed={"position": kind, "layers": []})),
    shift=st.integers(30, 39),
)
def test_absolute_encodings_do_see_a_shift(composition: ModelConfig, shift: int) -> None:
    assume(keeps_input(composition))
    model = lively(composition)
    assume(composition.position.embeds or not without_effect(model))
    tokens, positions = random_tokens(1, 2, 9), torch.arange(9).repeat(2, 1)
    shifted = model(tokens, Layout(positions_BT=positions + shift)).logits
    assert not torch.allclose(shifted, model(tokens).logits, atol=1e-4)


@law(
    examples=50,
    composition=relative.filter(lambda kind: kind != "none").flatmap(
        lambda kind: compositions(
            stack="encoder", fixed={"position": kind, "layers": [], "attention": {"n_heads": 2, "n_kv_heads": 2}}
        )
    ),
)
def test_relative_encodings_do_see_the_order_in_an_encoder(composition: ModelConfig) -> None:
    assume(keeps_input(composition))
    model = lively(composition)
    tokens, order = torch.arange(9)[None], torch.tensor([0, 6, 2, 3, 4, 5, 1, 7, 8])
    assert not torch.allclose(model(tokens[:, order]).logits, model(tokens).logits[:, order], atol=1e-4)


ORDERLESS = {"position": "none", "attention": {"kind": "multi_head", "pattern": "full"}}


@law(
    examples=50,
    composition=compositions(stack="encoder", fixed=ORDERLESS),
    order=st.permutations(range(8)),
)
def test_without_positions_an_encoder_is_permutation_equivariant(composition: ModelConfig, order: list[int]) -> None:
    assume(
        all(
            layer.position.kind_name() == "none"
            and layer.attention.pattern.kind_name() == "full"
            and layer.feed_forward.position_wise
            for layer in composition.resolve()
        )
    )
    model, tokens = lively(composition), random_tokens(1, 2, 8)
    assert_equal_logits(model(tokens[:, order]).logits, model(tokens).logits[:, order])


@law(examples=40, composition=compositions(stack="decoder"))
def test_a_decoder_tells_orders_apart_even_without_positions(composition: ModelConfig) -> None:
    assume(keeps_input(composition))
    assume(any(getattr(layer.attention, "pattern", None) != "window" for layer in composition.resolve()))
    model = lively(composition)
    tokens = torch.tensor([[1, 2, 3, 4, 5], [2, 1, 3, 4, 5]])
    first, second = model(tokens).logits
    assert not torch.allclose(first[1], second[1], atol=1e-4)


@law(examples=60, composition=compositions(), n_rows=st.integers(2, 4))
def test_batch_mates_do_not_change_an_output(composition: ModelConfig, n_rows: int) -> None:
    model, tokens = lively(composition), random_tokens(1, n_rows, 7)
    together = model(tokens).logits
    for row in range(n_rows):
        assert_equal_logits(together[row], model(tokens[row : row + 1]).logits[0], atol=1e-9)
