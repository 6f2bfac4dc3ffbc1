"""Padding at either end changes nothing, whatever tokens stand in it: of the tokens and of a source."""

import random

import torch
from torch import Tensor

from sublayer.model import Layout, Source
from tests.properties.composition import (
    VOCAB_SIZE,
    assert_equal_gradients,
    assert_equal_logits,
    gradients,
    logits_alone,
    random_tokens,
)
from tests.properties.statement import Subject, alone, statement


def valid_places(dice: random.Random, n_rows: int, width: int, least: int) -> Tensor:
    """Rows with padding at either end, or at both; the first one holds some token at least."""
    valid = torch.zeros(n_rows, width, dtype=torch.bool)
    for number in range(n_rows):
        length = dice.randint(max(least, number == 0), width)
        left = dice.randint(0, width - length)
        valid[number, left : left + length] = True
    return valid


@statement(alone)
def padding_changes_nothing(subject: Subject, dice: random.Random) -> None:
    by_token = subject.config.head.by_token
    n_rows, width = dice.randint(1, 3), dice.randint(3, 9)
    tokens, valid = random_tokens(dice.randrange(99), n_rows, width), valid_places(dice, n_rows, width, 0)
    documents, source = None, None
    if by_token and dice.random() < 0.5:  # what documents padding is said to belong to must not matter either
        documents = torch.where(valid, 7, torch.arange(width) // 2)
    layout = Layout(document_BT=documents, valid_BT=valid)
    read = subject.source(n_rows, 5)
    of_source = valid_places(dice, n_rows, 5, 1)
    if read is not None:
        of_documents = None if documents is None else torch.where(of_source, 7, torch.arange(5) // 2)
        source = Source(read, Layout(document_BT=of_documents, valid_BT=of_source))

    padded = subject.logits(tokens, layout, source)
    assert padded.isfinite().all()
    rows = [row for row in range(n_rows) if valid[row].any()]
    alone = [
        logits_alone(
            subject.model,
            tokens[row][valid[row]].tolist(),
            source=None if read is None else read[row][of_source[row]].tolist(),
        )
        for row in rows
    ]
    here = padded[valid] if by_token else padded[rows]
    separate = torch.cat(alone) if by_token else torch.stack(alone)
    assert_equal_logits(here, separate)

    with torch.no_grad():
        other = torch.where(valid, tokens, (tokens + 3) % VOCAB_SIZE)
        if source is not None and read is not None:
            source = Source(torch.where(of_source, read, (read + 3) % VOCAB_SIZE), source.layout)
        again = subject.logits(other, layout, source)
    assert_equal_logits(again[valid] if by_token else again[rows], here, atol=1e-9)

    cotangent = subject.cotangent(*separate.shape)
    assert_equal_gradients(
        gradients(subject.model, (here * cotangent).sum()),
        gradients(subject.model, (separate * cotangent).sum()),
    )


@statement(alone, share=0.25)
def the_loss_does_not_see_padding(subject: Subject, dice: random.Random) -> None:
    by_token = subject.config.head.by_token
    n_rows, width = dice.randint(1, 3), dice.randint(3, 9)
    tokens, valid = random_tokens(dice.randrange(99), n_rows, width), valid_places(dice, n_rows, width, 0)
    rows = [row for row in range(n_rows) if valid[row].any()]
    targets = subject.targets(n_rows, width)
    scored = valid if by_token else valid.any(1)
    targets = torch.where(scored, targets, -100)

    loss = subject.loss(tokens, targets, Layout(valid_BT=valid))
    read = subject.source(n_rows)
    alone = [
        logits_alone(
            subject.model, tokens[row][valid[row]].tolist(), source=None if read is None else read[row].tolist()
        )
        for row in rows
    ]
    separate = torch.cat(alone) if by_token else torch.stack(alone)
    expected = torch.nn.functional.cross_entropy(separate, targets[scored])
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert_equal_gradients(gradients(subject.model, loss), gradients(subject.model, expected))
