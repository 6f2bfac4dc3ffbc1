import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sublayer.data.packing import NOT_SCORED, packed
from sublayer.data.tokenizing import BEGINS, SCORED

END = 0
LENGTH = 6
ROWS = st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=LENGTH + 1), min_size=1, max_size=5)


@given(rows=ROWS)
@settings(max_examples=200)
def test_rows_are_what_loops_would_make(rows: list[list[int]]) -> None:
    batch = packed([np.array(row, dtype=np.uint16) for row in rows], LENGTH, END, True)
    assert batch.positions_BT is not None
    assert batch.document_BT is not None
    padded = any(len(row) <= LENGTH for row in rows)
    assert (batch.valid_BT is not None) == padded
    for number, row in enumerate(rows):
        n_inputs = len(row) - 1
        assert batch.tokens_BT[number, :n_inputs].tolist() == row[:-1]
        assert batch.targets_BT[number].tolist() == row[1:] + [NOT_SCORED] * (LENGTH - n_inputs)
        if batch.valid_BT is not None:
            assert batch.valid_BT[number].tolist() == [True] * n_inputs + [False] * (LENGTH - n_inputs)
        position, document = -1, 0
        for place, token in enumerate(row[:-1]):
            position += 1
            if token == END:
                document += place > 0
                position = 0
            assert batch.positions_BT[number, place] == position
            assert batch.document_BT[number, place] == document


def test_padding_is_in_no_document_of_the_text() -> None:
    batch = packed([np.array([0, 5, 6], dtype=np.uint32)], LENGTH, END, True)
    assert batch.document_BT is not None
    assert not set(batch.document_BT[0, 2:].tolist()) & set(batch.document_BT[0, :2].tolist())


def test_a_row_can_be_one_document() -> None:
    batch = packed([np.array([0, 5, 0, 6, 7, 8, 9], dtype=np.uint16)], LENGTH, END, False)
    assert batch.positions_BT is None
    assert batch.document_BT is None
    assert batch.valid_BT is None
    assert batch.tokens_BT.dtype == batch.targets_BT.dtype == torch.int64


DOCUMENTS = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), min_size=1, max_size=3)
"""Of each document its unscored and its scored tokens."""


def marked(documents: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    tokens, marks = [], []
    for unscored, scored in documents:
        tokens += [END, *range(1, 1 + unscored), *[7] * (scored - 1), END]
        marks += [BEGINS, *[0] * unscored, *[SCORED] * scored]
    return tokens, marks


@given(rows=st.lists(DOCUMENTS, min_size=1, max_size=4))
@settings(max_examples=200)
def test_marks_say_what_is_scored_and_where_documents_begin(rows: list[list[tuple[int, int]]]) -> None:
    length = 24
    made = [marked(documents) for documents in rows]
    tokens = [np.array(row[: length + 1], dtype=np.uint16) for row, _ in made]
    marks = [np.array(row[: length + 1], dtype=np.uint8) for _, row in made]
    batch = packed(tokens, length, END, True, marks)
    assert batch.positions_BT is not None
    assert batch.document_BT is not None
    for number, (row, mark) in enumerate(zip(tokens, marks, strict=True)):
        position, document = -1, -1
        for place in range(len(row) - 1):
            assert batch.tokens_BT[number, place] == row[place]
            expected = row[place + 1] if mark[place + 1] & SCORED else NOT_SCORED
            assert batch.targets_BT[number, place] == expected
            begins = mark[place] & BEGINS > 0
            position, document = (0, document + 1) if begins else (position + 1, document)
            assert batch.positions_BT[number, place] == position
            assert batch.document_BT[number, place] == document
        assert (batch.targets_BT[number, len(row) - 1 :] == NOT_SCORED).all()


def test_rows_with_and_without_marks_stand_in_one_batch() -> None:
    row = np.array([END, 5, END, 6, 7, 8, 9], dtype=np.uint16)
    marks = np.array([BEGINS, 0, SCORED, 0, SCORED, BEGINS, SCORED], dtype=np.uint8)
    batch = packed([row, row], LENGTH, END, True, [None, marks])
    assert batch.targets_BT.tolist() == [[5, 0, 6, 7, 8, 9], [NOT_SCORED, 0, NOT_SCORED, 7, NOT_SCORED, 9]]
    assert batch.document_BT is not None
    assert batch.document_BT.tolist() == [[0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1]]
