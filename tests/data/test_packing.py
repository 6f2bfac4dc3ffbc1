import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sublayer.data.packing import NOT_SCORED, n_full_rows, n_rows, packed

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


@given(n_tokens=st.integers(0, 100), length=st.integers(1, 20))
def test_rows_cover_every_target_once(n_tokens: int, length: int) -> None:
    tokens = np.arange(n_tokens)
    targets = [tokens[row * length + 1 : row * length + length + 1] for row in range(n_rows(n_tokens, length))]
    assert np.array_equal(np.concatenate([tokens[:0], *targets]), tokens[1:])
    assert sum(len(target) == length for target in targets) == n_full_rows(n_tokens, length)
