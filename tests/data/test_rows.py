import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sublayer.data.rows import Contiguous, WholeDocuments
from sublayer.data.tokenizing import BEGINS, SCORED


@given(n_tokens=st.integers(0, 100), length=st.integers(1, 20))
def test_contiguous_rows_cover_every_target_once(n_tokens: int, length: int) -> None:
    tokens = np.arange(n_tokens)
    rows = Contiguous(n_tokens, length, full=False)
    targets = [tokens[begin + 1 : end] for begin, end in map(rows.stretch, range(len(rows)))]
    assert np.array_equal(np.concatenate([tokens[:0], *targets]), tokens[1:])
    assert sum(len(target) == length for target in targets) == len(Contiguous(n_tokens, length, full=True))


@given(
    documents=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4)), min_size=1, max_size=30),
    length=st.integers(1, 12),
)
@settings(max_examples=200)
def test_whole_documents_are_what_a_loop_would_pack(documents: list[tuple[int, int]], length: int) -> None:
    marks: list[int] = []
    for unscored, scored in documents:
        marks += [BEGINS, *[0] * unscored, *[SCORED] * scored]
    lengths = np.array([1 + unscored + scored for unscored, scored in documents], dtype=np.uint32)
    scored = np.array([scored for _, scored in documents], dtype=np.uint32)
    rows = WholeDocuments(lengths, scored, np.array(marks, dtype=np.uint8), length)

    expected, row, begin, truncated = [], [0, 0], 0, 0
    for size in lengths.tolist():
        if row[1] > row[0] and begin + size - row[0] > length + 1:
            expected.append(row)
            row = [begin, begin]
        row = [row[0], min(begin + size, row[0] + length + 1)]
        truncated += begin + size > row[1]
        begin += size
        if begin > row[1]:  # what was cut off is in no row
            expected.append(row)
            row = [begin, begin]
    if row[1] > row[0]:
        expected.append(row)
    kept = [tuple(row) for row in expected if any(mark & SCORED for mark in marks[row[0] : row[1]])]
    assert [rows.stretch(number) for number in range(len(rows))] == kept
    assert (rows.truncated, rows.left_out) == (truncated, len(expected) - len(kept))
