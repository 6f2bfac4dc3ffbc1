"""The grid: every statement that applies, put to random legal compositions of all registered parts.

An ordinary run draws 300 of them, the same each time; with `-m slow` 5,000 others are drawn.  What was drawn and what
was put to it stands at the end of pytest's output.
"""

import time

import pytest
from hypothesis import given, note, seed, settings
from hypothesis import strategies as st

from sublayer.model import ModelConfig
from tests.properties import statements as _statements  # noqa: F401  (which lists them)
from tests.properties.composition import compositions
from tests.properties.statement import STATEMENTS, Subject
from tests.properties.tally import LEAST_SHARE, MANY, TALLY

FEW, PART = 300, 100
"""Compositions in an ordinary run, and in one test of it or of a slow one, so that processes can share them."""


def draw(n_examples: int, number: int | None) -> None:
    """Draws so many compositions, the same for the same number, and puts all that applies to each."""

    @settings(max_examples=n_examples, derandomize=number is not None)
    @given(composition=compositions(by_token=None, dropout=True, tally=TALLY), dice=st.integers(0, 2**16 - 1))
    def put(composition: ModelConfig, dice: int) -> None:
        subject = Subject(composition)
        for statement in STATEMENTS:
            note(f"statement: {statement.name}")
            start = time.perf_counter()
            if statement.put(subject, dice):
                TALLY.applied(statement.name, time.perf_counter() - start)

    (put if number is None else seed(number)(put))()
    assert TALLY.share >= LEAST_SHARE


@pytest.mark.parametrize("number", range(FEW // PART))
def test_every_statement_holds_for_what_it_applies_to(number: int) -> None:
    draw(PART, number)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(MANY // PART))
def test_every_statement_holds_for_many_more(number: int) -> None:
    draw(PART, None)
