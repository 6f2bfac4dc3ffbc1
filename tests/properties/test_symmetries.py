"""What compositions that are rare in the grid are blind to, and what others see: shifts and orders of tokens."""

import torch
from hypothesis import assume
from hypothesis import strategies as st

from sublayer.model import Layout, ModelConfig
from sublayer.model.position import PositionConfig
from tests.properties.composition import compositions, is_felt, law, lively, random_tokens, without_effect
from tests.properties.statement import STATEMENTS, Subject
from tests.properties.statements import symmetries as _symmetries  # noqa: F401  (which lists them)

relative = st.sampled_from(sorted(part.kind_name() for part in PositionConfig.registry if part.shift_invariant))


@law(
    examples=15,
    composition=st.sampled_from(
        sorted(part.kind_name() for part in PositionConfig.registry if not part.shift_invariant)
    ).flatmap(lambda kind: compositions(stack=("decoder", "encoder"), fixed={"position": kind, "layers": []})),
    shift=st.integers(30, 39),
)
def test_absolute_encodings_do_see_a_shift(composition: ModelConfig, shift: int) -> None:
    model = lively(composition)
    assume(composition.position.embeds or not without_effect(model))
    tokens, positions = random_tokens(1, 2, 9), torch.arange(9).repeat(2, 1)
    logits = model(tokens).logits
    assume(is_felt(composition, logits))
    shifted = model(tokens, Layout(positions_BT=positions + shift)).logits
    assert not torch.allclose(shifted, logits, atol=1e-4)


@law(
    examples=50,
    composition=relative.filter(lambda kind: kind != "none").flatmap(
        lambda kind: compositions(
            stack="encoder", fixed={"position": kind, "layers": [], "attention": {"n_heads": 2, "n_kv_heads": 2}}
        )
    ),
)
def test_relative_encodings_do_see_the_order_in_an_encoder(composition: ModelConfig) -> None:
    model = lively(composition)
    tokens, order = torch.arange(9)[None], torch.tensor([0, 6, 2, 3, 4, 5, 1, 7, 8])
    logits = model(tokens).logits
    assume(is_felt(composition, logits))
    assert not torch.allclose(model(tokens[:, order]).logits, logits[:, order], atol=1e-4)


ORDERLESS = {"position": "none", "attention": {"kind": "multi_head", "n_heads": 2, "pattern": "full"}, "layers": []}


@law(
    examples=60,
    composition=compositions(stack=("encoder", "encoder_decoder"), by_token=None, fixed=ORDERLESS),
    seed=st.integers(0, 2**16),
)
def test_without_positions_an_encoder_knows_no_order(composition: ModelConfig, seed: int) -> None:
    about = [statement for statement in STATEMENTS if "order" in statement.name or "permutation" in statement.name]
    put = [statement.put(Subject(composition), seed) for statement in about]
    assume(any(put))


@law(examples=40, composition=compositions(stack="decoder"))
def test_a_decoder_tells_orders_apart_even_without_positions(composition: ModelConfig) -> None:
    assume(any(getattr(layer.attention, "pattern", None) != "window" for layer in composition.resolve()))
    model = lively(composition)
    tokens = torch.tensor([[1, 2, 3, 4, 5], [2, 1, 3, 4, 5]])
    first, second = model(tokens).logits
    assume(is_felt(composition, first[1]))
    assert not torch.allclose(first[1], second[1], atol=1e-4)
