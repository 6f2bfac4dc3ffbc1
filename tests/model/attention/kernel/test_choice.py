"""Which kernel `auto` takes, and why, in words."""

import pytest
import torch

from sublayer.model.attention.kernel import KERNELS, Attention, choose, explain
from sublayer.model.attention.pattern.base import Causal
from sublayer.model.attention.score import OffsetBias
from sublayer.model.layout import Layout, Span


def call(length: int = 8, **changes: object) -> Attention:
    layout = Layout().resolved(length, torch.device("cpu"))
    return Attention(Causal(), Span.within(layout, plain=True), 0.5, **changes)


def query(length: int = 8, dtype: torch.dtype = torch.bfloat16, trained: bool = True) -> torch.Tensor:
    return torch.empty(1, 2, length, 4, dtype=dtype).requires_grad_(trained)


ALIBI = OffsetBias("a bias", lambda offsets: -offsets.float()[:, None])


@pytest.mark.parametrize(
    ("asked", "q", "taken", "words"),
    [
        (call(), query(), "dense", "faster than the fused kernel"),
        (call(), query(dtype=torch.float32), "sdpa", "dense passed over: the fused kernel is faster in float32"),
        (call(), query(trained=False), "sdpa", "dense passed over: the fused kernel is faster without gradients"),
        (call(1024), query(1024), "sdpa", "dense passed over: the fused kernel is faster for a sequence so long"),
        (call(score_change=ALIBI), query(), "sdpa", "where the position changes scores"),
        (call(want_weights=True), query(), "reference", "sdpa passed over: it does not return attention weights"),
    ],
)
def test_auto_says_why(asked: Attention, q: torch.Tensor, taken: str, words: str) -> None:
    kernel, why = explain("auto", asked, q)
    assert kernel.name == taken
    assert kernel is choose("auto", asked, q)
    assert words in why


@pytest.mark.parametrize("name", sorted(KERNELS))
def test_a_named_kernel_is_the_config_s_own_choice(name: str) -> None:
    kernel, why = explain(name, call(), query())
    assert (kernel.name, why) == (name, "named in the config")


def test_a_named_kernel_gives_way_when_weights_are_wanted() -> None:
    kernel, why = explain("dense", call(want_weights=True), query())
    assert kernel.name == "reference"
    assert "dense passed over: it does not return attention weights" in why
