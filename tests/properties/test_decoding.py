"""Memories that do not keep all tokens, decoded with in every way, in any composition around them."""

import random

import torch
from hypothesis import assume
from hypothesis import strategies as st

from sublayer.model import ModelConfig
from tests.properties.composition import compositions, law
from tests.properties.statement import Subject, alone
from tests.properties.statements.decoding import Game, Style, limit_of


def play(composition: ModelConfig, seed: int, n_moves: int) -> None:
    assume(alone(composition))
    dice = random.Random(seed)
    style = Style(*(dice.random() < 0.5 for _ in range(3)))
    with torch.no_grad():
        Game(Subject(composition), dice, style, limit_of(composition)).play(n_moves)


def windowed(sinks: int) -> dict[str, object]:
    window = {"kind": "window", "size": 3, "sinks": sinks}
    return {"attention": {"n_heads": 2, "pattern": window}, "n_layers": 2, "layers": [], "position": "alibi"}


@law(
    examples=60,
    composition=compositions(stack="decoder", fixed=windowed(0)),
    seed=st.integers(0, 2**16),
    n_moves=st.integers(1, 6),
)
def test_a_ring_buffer_equals_one_full_pass(composition: ModelConfig, seed: int, n_moves: int) -> None:
    play(composition, seed, n_moves)


@law(
    examples=60,
    composition=st.sampled_from([1, 2, 4]).flatmap(lambda n: compositions(stack="decoder", fixed=windowed(n))),
    seed=st.integers(0, 2**16),
    n_moves=st.integers(1, 6),
)
def test_a_ring_with_sinks_equals_one_full_pass(composition: ModelConfig, seed: int, n_moves: int) -> None:
    play(composition, seed, n_moves)
