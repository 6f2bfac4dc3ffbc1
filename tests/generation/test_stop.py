import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sublayer.generation.stop import StopStrings


def oracle(text: str, stop: list[str]) -> str:
    """Letter by letter: the text before the first stop string that becomes complete, of two the longer."""
    for end in range(len(text) + 1):
        lengths = [len(one) for one in stop if text[:end].endswith(one)]
        if lengths:
            return text[: end - max(lengths)]
    return text


def told(pieces: list[str], stop: list[str]) -> tuple[list[str], bool]:
    strings = StopStrings(stop)
    given = [strings.push(piece) for piece in pieces]
    return [*given, strings.finish()], strings.found


def cut(text: str, seed: int) -> list[str]:
    draw, pieces = random.Random(seed), []
    while text:
        n = draw.randint(0, 4)
        pieces.append(text[:n])
        text = text[n:]
    return pieces


@given(
    text=st.text("ab.", max_size=30),
    stop=st.lists(st.text("ab.", min_size=1, max_size=5), max_size=3),
    seed=st.integers(0, 1000),
)
@settings(max_examples=400, deadline=None)
def test_however_it_falls_apart(text: str, stop: list[str], seed: int) -> None:
    pieces, found = told(cut(text, seed), stop)
    assert "".join(pieces) == oracle(text, stop)
    assert found == any(one in text for one in stop)


@given(text=st.text("ab.", max_size=30), stop=st.lists(st.text("ab.", min_size=1, max_size=5), min_size=1, max_size=3))
@settings(max_examples=200, deadline=None)
def test_what_is_given_out_at_any_time_is_no_part_of_a_stop_string(text: str, stop: list[str]) -> None:
    strings, out = StopStrings(stop), ""
    for n, letter in enumerate(text):
        out += strings.push(letter)
        if strings.found:
            break
        # Whatever comes next, what is out stays: so no stop string may yet begin in it ...
        for one in stop:
            assert oracle(text[: n + 1] + one, stop).startswith(out)
        # ... and no more is kept back than could begin one.
        kept = text[len(out) : n + 1]
        assert kept == "" or any(one.startswith(kept) for one in stop)


@pytest.mark.parametrize(
    ("pieces", "stop", "expected"),
    [
        (["one\n", "\ntwo"], ["\n\n"], "one"),
        (["aab"], ["ab"], "a"),
        (["xabc"], ["abc", "b"], "xa"),  # "b" is complete before "abc" is
        (["xab", "c"], ["b", "ab"], "x"),  # both at once: the longer
        (["ab", "ab", "abc"], ["ababc"], "ab"),  # a beginning inside a beginning
        (["the be"], ["begin"], "the be"),  # a beginning that nothing follows
    ],
)
def test_examples(pieces: list[str], stop: list[str], expected: str) -> None:
    assert "".join(told(pieces, stop)[0]) == expected


def test_nothing_follows_a_stop_string() -> None:
    strings = StopStrings(["."])
    assert strings.push("a.b") == "a"
    assert strings.push("c.d") == ""
    assert strings.finish() == ""
