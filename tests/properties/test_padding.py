"""Padding at either end changes nothing, whatever tokens stand in it."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st

from sublayer.model import Layout, ModelConfig
from tests.properties.composition import (
    VOCAB_SIZE,
    assert_equal_gradients,
    assert_equal_logits,
    compositions,
    gradients,
    law,
    lively,
    logits_alone,
    random_tokens,
)


@dataclass
class Padded:
    """A row: its tokens, and how many places of padding stand before them."""

    length: int
    left: int


@st.composite
def padded_rows(draw: st.DrawFn) -> tuple[int, list[Padded]]:
    width = draw(st.integers(3, 12))
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        length = draw(st.integers(0, width))
        rows.append(Padded(length, draw(st.integers(0, width - length))))
    if all(row.length == 0 for row in rows):
        rows[0] = Padded(width - 1, 1)
    return width, rows


@law(examples=100, composition=compositions(), batch=padded_rows(), with_documents=st.booleans())
def test_padding_changes_nothing(
    composition: ModelConfig, batch: tuple[int, list[Padded]], with_documents: bool
) -> None:
    model = lively(composition)
    width, rows = batch
    tokens = random_tokens(1, len(rows), width)
    valid = torch.zeros(len(rows), width, dtype=torch.bool)
    for number, row in enumerate(rows):
        valid[number, row.left : row.left + row.length] = True
    # What documents padding is said to belong to must not matter either.
    documents = torch.where(valid, 7, torch.arange(width) // 2) if with_documents else None
    layout = Layout(document_BT=documents, valid_BT=valid)
    cotangent = torch.randn(
        len(rows), width, VOCAB_SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )

    padded = model(tokens, layout).logits
    assert padded.isfinite().all()
    separate = torch.cat(
        [logits_alone(model, tokens[row][valid[row]].tolist()) for row in range(len(rows)) if rows[row].length]
    )
    assert_equal_logits(padded[valid], separate)

    other = torch.where(valid, tokens, (tokens + 3) % VOCAB_SIZE)
    assert_equal_logits(model(other, layout).logits[valid], padded[valid], atol=1e-9)

    assert_equal_gradients(
        gradients(model, (padded * cotangent)[valid].sum()),
        gradients(model, (separate * cotangent[valid]).sum()),
    )


@law(examples=50, composition=compositions(), batch=padded_rows())
def test_the_loss_does_not_see_padding(composition: ModelConfig, batch: tuple[int, list[Padded]]) -> None:
    model = lively(composition)
    width, rows = batch
    tokens, targets = random_tokens(1, len(rows), width), random_tokens(2, len(rows), width)
    valid = torch.zeros(len(rows), width, dtype=torch.bool)
    for number, row in enumerate(rows):
        valid[number, row.left : row.left + row.length] = True
    targets = torch.where(valid, targets, -100)

    loss = model(tokens, Layout(valid_BT=valid), targets=targets).loss
    separate = torch.cat(
        [logits_alone(model, tokens[row][valid[row]].tolist()) for row in range(len(rows)) if rows[row].length]
    )
    expected = torch.nn.functional.cross_entropy(separate, targets[valid])
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert_equal_gradients(gradients(model, loss), gradients(model, expected))
