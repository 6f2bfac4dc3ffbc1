"""Positions, documents and padding, counted by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sublayer.model import Layout, ModelConfig, Transformer
from sublayer.model.attention.pattern.base import Causal, Everything, Near
from sublayer.model.layout import Span


def resolved(layout: Layout, n_tokens: int) -> list[list[int]]:
    positions = layout.resolved(n_tokens, torch.device("cpu")).positions_BT
    assert positions is not None
    return positions.tolist()


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[list[int]], list[list[bool]]]:
    """Documents and validity of some rows, with padding (of any document) at both ends."""
    width, documents, valid = 10, [], []
    for _ in range(draw(st.integers(1, 3))):
        left, right = draw(st.integers(0, 4)), draw(st.integers(0, 4))
        lengths: list[int] = draw(st.lists(st.integers(1, 4), min_size=4, max_size=4))
        inside = [number for number, length in enumerate(lengths) for _ in range(length)] + [9] * width
        n_valid = width - left - right
        padding = draw(st.sampled_from([0, 3, -1]))
        documents.append([padding] * left + inside[:n_valid] + [padding] * right)
        valid.append([False] * left + [True] * n_valid + [False] * right)
    return documents, valid


@settings(max_examples=60)
@given(rows(), st.booleans(), st.booleans())
def test_positions_count_the_valid_tokens_of_each_document(
    batch: tuple[list[list[int]], list[list[bool]]], with_documents: bool, with_valid: bool
) -> None:
    documents, valid = batch
    if not with_valid:
        valid = [[True] * len(row) for row in documents]
    layout = Layout(
        document_BT=torch.tensor(documents) if with_documents else None,
        valid_BT=torch.tensor(valid) if with_valid else None,
    )
    counted = resolved(layout, 10)
    for row, (document, is_valid) in enumerate(zip(documents, valid, strict=True)):
        expected, last = 0, None
        for column in range(10):
            if not is_valid[column]:
                continue
            if with_documents and document[column] != last:
                expected, last = 0, document[column]
            assert counted[row % len(counted)][column] == expected
            expected += 1


def test_a_plain_layout_counts_columns_and_given_positions_stay() -> None:
    assert Layout().plain
    assert resolved(Layout(), 4) == [[0, 1, 2, 3]]
    given_positions = Layout(positions_BT=torch.tensor([[5, 9]]), document_BT=torch.tensor([[1, 2]]))
    assert not given_positions.plain
    assert resolved(given_positions, 2) == [[5, 9]]


def test_ragged_rows_are_padded_at_their_end() -> None:
    layout = Layout.ragged([3, 0, 2])
    assert layout.valid_BT.tolist() == [[True] * 3, [False] * 3, [True, True, False]]
    assert resolved(layout, 3)[0] == [0, 1, 2]


@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        (
            Layout(document_BT=torch.zeros(2, 4, dtype=torch.int64)),
            r"layout\.document_BT has shape \(2, 4\), but the t",
        ),
        (Layout(positions_BT=torch.zeros(1, 3, dtype=torch.int64)), r"layout\.positions_BT has shape \(1, 3\)"),
        (Layout(valid_BT=torch.ones(2, 3, dtype=torch.int64)), r"layout\.valid_BT holds torch\.int64, and must hold"),
        (Layout(document_BT=torch.ones(2, 3, dtype=torch.int32)), r"layout\.document_BT holds torch\.int32"),
    ],
)
def test_a_layout_that_does_not_fit_the_tokens_is_refused(layout: Layout, sentence: str) -> None:
    model = Transformer(ModelConfig(vocab_size=5, d_model=8, n_layers=1, attention={"n_heads": 2}))
    with pytest.raises(ValueError, match=sentence) as refused:
        model(torch.zeros(2, 3, dtype=torch.int64), layout)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("pattern", [Causal(), Near(2, 0), Near(1, 1), Everything()], ids=str)
def test_a_query_sees_valid_keys_of_its_document_in_its_pattern(pattern: Causal | Near | Everything) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randint(0, 6, (3, n), generator=generator) for n in (4, 7))
    query_document, key_document = (torch.randint(0, 2, (3, n), generator=generator) for n in (4, 7))
    valid = torch.randint(0, 3, (3, 7), generator=generator) > 0
    mask = Span(query, key, query_document, key_document, valid).visible(pattern)
    assert mask is not None
    for b in range(3):
        for i in range(4):
            for j in range(7):
                q, k = query[b, i], key[b, j]
                by_pattern = {
                    "Causal": k <= q,
                    "Near": q - k <= getattr(pattern, "back", 0) and k - q <= getattr(pattern, "ahead", 0),
                    "Everything": True,
                }[type(pattern).__name__]
                expected = bool(by_pattern) and bool(query_document[b, i] == key_document[b, j]) and bool(valid[b, j])
                assert bool(mask[b, 0, i, j]) == expected


def test_no_mask_is_made_where_every_query_sees_every_key() -> None:
    span = Span(torch.arange(4)[None], torch.arange(4)[None])
    assert span.visible(Everything()) is None
    assert span.visible(Causal()) is not None


def test_a_mask_is_made_once_for_all_layers_of_a_pass() -> None:
    calls = []

    class Counting(Near):
        def visible(self, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
            calls.append(1)
            return super().visible(i, j)

    span = Span(torch.arange(4)[None], torch.arange(4)[None])
    first = span.visible(Counting(2, 0))
    assert span.visible(Counting(2, 0)) is first
    assert len(calls) == 1
    assert span.visible(Counting(1, 0)) is not first
