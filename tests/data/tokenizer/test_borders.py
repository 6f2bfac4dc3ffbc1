import re

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sublayer.data.tokenizer import BpeConfig, BytesConfig
from sublayer.data.tokenizer.borders import UNSPACED

BYTES = BytesConfig().build(lambda: iter(()))
SOME = "the sea 東京タワー ที่นี่ naïve ninety_9 한국어 𠀀𠀁 “so”"
BPE = BpeConfig(vocab_size=330).build(lambda: iter([SOME] * 40))


def words(text: str) -> list[str]:
    """The words of a text, and between them all else, each character by itself."""
    alone = "".join(f"{chr(first)}-{chr(last)}" for first, last in UNSPACED)
    return re.findall(rf"(?:(?![{alone}])[A-Za-z0-9_\u0080-\U0010ffff])+|.", text, re.DOTALL)


def begins_by_hand(pieces: list[bytes], text: str) -> list[bool]:
    ends = np.cumsum([len(word.encode()) for word in words(text)])
    places = {0, *ends.tolist()}
    at, found = 0, []
    for piece in pieces:
        found.append(at in places)
        at += len(piece)
    return found


@given(text=st.text(st.sampled_from(SOME + "\0\n-ñÿ가"), max_size=40) | st.text(max_size=20))
@example(
    text="".join(f"{chr(first - 1)}{chr(first)}{chr(first)}{chr(last)}{chr(last + 1)}x" for first, last in UNSPACED)
)
@settings(max_examples=150)
def test_words_begin_where_a_reader_of_characters_finds_them(text: str) -> None:
    for tokenizer in (BYTES, BPE):
        ids = tokenizer.encode(text)
        pieces = [tokenizer.decode_bytes([index]) for index in ids[1:]]
        found = tokenizer.borders.begins(np.array([ids]))[0].tolist()
        assert found[0]
        assert found[1:] == begins_by_hand(pieces, text)


@given(text=st.text(st.sampled_from("東京ที่a b"), min_size=4, max_size=30), length=st.integers(1, 9))
def test_rows_that_cut_characters_do_not_see_one_another(text: str, length: int) -> None:
    ids = np.array(BYTES.encode(text))
    rows = ids[: len(ids) // length * length].reshape(-1, length)
    alone = [BYTES.borders.begins(row[None])[0] for row in rows]
    assert (BYTES.borders.begins(rows) == np.array(alone).reshape(rows.shape)).all()
