"""The load of experts: its arithmetic."""

import math

import pytest
import torch

from sublayer.measures.load import dead, entropy, entropy_share, max_vio, sampling_floor, shares, worst_vio


def test_an_even_load_violates_nothing() -> None:
    assert max_vio([7, 7, 7, 7]) == 0.0
    assert max_vio([0, 0]) == 0.0
    assert shares([2, 2, 4, 0]) == [0.25, 0.25, 0.5, 0.0]
    assert shares([0, 0]) == [0.0, 0.0]


@pytest.mark.parametrize(("n_experts", "top_k"), [(8, 1), (8, 2), (16, 3), (4, 4)])
def test_a_collapse_is_the_worst(n_experts: int, top_k: int) -> None:
    collapsed = [100] * top_k + [0] * (n_experts - top_k)
    assert max_vio(collapsed) == pytest.approx(n_experts / top_k - 1) == pytest.approx(worst_vio(n_experts, top_k))
    assert dead(collapsed) == list(range(top_k, n_experts))


def test_the_reference_definition() -> None:
    load = [10, 30, 20, 40]
    assert max_vio(load) == pytest.approx((40 - 25) / 25)


@pytest.mark.parametrize(("n_experts", "top_k", "n_tokens"), [(8, 2, 500), (16, 2, 2048), (64, 8, 1000)])
def test_even_chance_stays_below_the_floor(n_experts: int, top_k: int, n_tokens: int) -> None:
    drawn = torch.Generator().manual_seed(0)
    found = []
    for _ in range(40):
        chosen_TK = torch.rand(n_tokens, n_experts, generator=drawn).topk(top_k, dim=1).indices
        found.append(max_vio(torch.bincount(chosen_TK.flatten(), minlength=n_experts).tolist()))
    floor = sampling_floor(n_experts, top_k, n_tokens)
    mean = sum(found) / len(found)
    assert 0.5 * floor < mean < floor  # a bound, and not an empty one


def test_the_floor_shrinks_with_tokens_and_where_there_is_no_choice() -> None:
    assert sampling_floor(8, 2, 400) == pytest.approx(sampling_floor(8, 2, 100) / 2)
    assert sampling_floor(8, 2, 1024) == pytest.approx(math.sqrt(2 * math.log(8)) * math.sqrt(0.75 * 8 / (2 * 1024)))
    assert sampling_floor(4, 4, 10) == 0.0
    assert sampling_floor(1, 1, 10) == 0.0
    assert sampling_floor(8, 2, 0) == math.inf


def test_entropy() -> None:
    assert entropy([0.25] * 4) == pytest.approx(math.log(4))
    assert entropy([1.0, 0.0]) == 0.0
    assert entropy_share(entropy([0.25] * 4), 4) == pytest.approx(1.0)
    assert entropy_share(0.0, 4) == 0.0
    assert entropy_share(0.0, 1) == 1.0
