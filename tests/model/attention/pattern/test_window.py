"""What a window shows, key by key."""

import pytest
import torch

from sublayer.errors import ConfigError
from sublayer.model.attention.pattern.base import Near, Reach
from sublayer.model.attention.pattern.full import FullConfig
from sublayer.model.attention.pattern.window import WindowConfig

QUERIES, KEYS = torch.arange(15)[:, None], torch.arange(15)[None]


@pytest.mark.parametrize("size", [1, 2, 3, 6, 20])
def test_a_decoder_s_window_is_the_last_size_tokens(size: int) -> None:
    shown = WindowConfig(size=size).pattern("causal").visible(QUERIES, KEYS)
    for i in range(15):
        assert [j for j in range(15) if shown[i, j]] == list(range(max(0, i - size + 1), i + 1))


@pytest.mark.parametrize("size", [1, 2, 3, 6, 20])
def test_an_encoder_s_window_is_half_its_size_to_either_side(size: int) -> None:
    shown = WindowConfig(size=size).pattern("bidirectional").visible(QUERIES, KEYS)
    for i in range(15):
        assert [j for j in range(15) if shown[i, j]] == [j for j in range(15) if abs(i - j) <= size // 2]


def test_full_shows_everything_or_what_stands_before() -> None:
    assert FullConfig().pattern("bidirectional").visible(QUERIES, KEYS).all()
    assert torch.equal(FullConfig().pattern("causal").visible(QUERIES, KEYS), torch.ones(15, 15).tril().bool())


def test_reach() -> None:
    assert WindowConfig(size=5).pattern("causal").reach == Reach(back=5)
    assert WindowConfig(size=1).pattern("causal").reach == Reach(back=1)
    assert FullConfig().pattern("causal").reach == Reach(back=None)


@pytest.mark.parametrize("size", [0, -3, "wide", True])
def test_a_size_below_one_or_no_number_is_refused(size: object) -> None:
    with pytest.raises(ConfigError, match=r"^size: must be"):
        WindowConfig(size=size)


@pytest.mark.parametrize("sinks", [1, 3, 20])
@pytest.mark.parametrize("size", [1, 3, 6])
def test_sinks_stay_in_view(size: int, sinks: int) -> None:
    causal = WindowConfig(size=size, sinks=sinks).pattern("causal")
    shown = causal.visible(QUERIES, KEYS)
    for i in range(15):
        assert [j for j in range(15) if shown[i, j]] == [j for j in range(i + 1) if i - j < size or j < sinks]
    assert causal.reach == Reach(back=size, pinned=sinks)
    assert causal.reach.kept == size + sinks
    assert causal.sees_itself
    shown = WindowConfig(size=size, sinks=sinks).pattern("bidirectional").visible(QUERIES, KEYS)
    for i in range(15):
        assert [j for j in range(15) if shown[i, j]] == [j for j in range(15) if abs(i - j) <= size // 2 or j < sinks]


def test_without_sinks_a_window_is_the_pattern_that_it_was() -> None:
    assert WindowConfig(size=4, sinks=0).pattern("causal") == Near(back=3, ahead=0)
