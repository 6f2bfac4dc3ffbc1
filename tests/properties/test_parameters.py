"""Each parameter starts from (seed, its own name) alone (what else is true of them: statements/parameters.py)."""

import torch
from hypothesis import strategies as st

from sublayer.model import ModelConfig, Transformer
from sublayer.model.resolution import LAYER_FIELDS
from sublayer.registry import Registry
from tests.properties.composition import compositions, law, parts


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
    if field == "feed_forward":  # hyper-connections begin by the number of the sublayer, and there may be one less
        shared = [name for name in shared if ".residual." not in name]
    for name in shared:
        left, right = first[name], second[name]
        if field == "residual" and not torch.equal(left, right):  # it may start a matrix smaller as a whole
            left, right = left / left.norm(), right / right.norm()
        torch.testing.assert_close(left, right, rtol=1e-5 if field == "residual" else 0, atol=0, msg=name)
