"""Which kernel `auto` takes, and why, in words."""

import pytest
import torch

from sublayer.model.attention.kernel import KERNELS, Attention, choose, explain, refusal
from sublayer.model.attention.pattern.base import Causal
from sublayer.model.attention.score import OffsetBias, ScoreChange
from sublayer.model.layout import Layout, Span


def call(length: int = 8, **changes: object) -> Attention:
    layout = Layout().resolved(length, torch.device("cpu"))
    return Attention(Causal(), Span.within(layout, plain=True), 0.5, **changes)


def query(length: int = 8, dtype: torch.dtype = torch.bfloat16, trained: bool = True) -> torch.Tensor:
    return torch.empty(1, 2, length, 4, dtype=dtype).requires_grad_(trained)


class Shaw(ScoreChange):
    changes_values = True

    def dense(self, span: Span) -> torch.Tensor:
        return torch.zeros(1, 2, 8, 8)


SHAW = Shaw()
ALIBI = OffsetBias("a bias", lambda offsets: -offsets.float()[:, None])


@pytest.mark.parametrize(
    ("asked", "q", "taken", "words"),
    [
        (call(), query(), "dense", "faster than the fused kernel"),
        (call(), query(dtype=torch.float32), "sdpa", "dense passed over: the fused kernel is faster in float32"),
        (call(), query(trained=False), "sdpa", "dense passed over: the fused kernel is faster without gradients"),
        (call(1024), query(1024), "sdpa", "dense passed over: the fused kernel is faster for a sequence so long"),
        (call(score_change=ALIBI), query(), "dense", "faster than the fused kernel"),
        (call(1024, score_change=ALIBI), query(1024), "sdpa", "faster for a sequence so long"),
        (call(want_weights=True), query(), "reference", "sdpa passed over: it does not return attention weights"),
        (call(1024, soft_cap=5.0), query(1024), "dense", "sdpa passed over: it has no soft cap on scores"),
        (
            call(soft_cap=5.0),
            query(dtype=torch.float32, trained=False),
            "dense",
            "sdpa passed over: it has no soft cap",
        ),
        (call(score_change=SHAW), query(dtype=torch.float32), "dense", "sdpa passed over: it does not add to values"),
        (call(soft_cap=5.0, want_weights=True), query(), "reference", "dense passed over: it does not return"),
        (call(sink_H=torch.zeros(2)), query(dtype=torch.float32), "sdpa", "PyTorch's fused kernel"),
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


def test_a_name_for_what_it_cannot_carry_is_refused_with_a_reason() -> None:
    assert refusal("sdpa", soft_cap=5.0) == "it has no soft cap on scores"
    assert refusal("sdpa", changes_values=True) == "it does not add to values by weight"
    assert refusal("sdpa") is None
    for name in ("auto", "dense", "reference"):
        assert refusal(name, soft_cap=5.0, changes_values=True) is None
