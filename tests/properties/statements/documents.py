"""Documents packed into one row are as good as documents in rows of their own, with their sources or without."""

import random

import torch

from sublayer.model import Layout, Source
from tests.properties.composition import (
    VOCAB_SIZE,
    Kept,
    assert_equal_gradients,
    assert_equal_logits,
    gradients,
    is_felt,
    logits_alone,
)
from tests.properties.statement import Subject, alone, by_token, some_tokens, statement


@statement(lambda config: by_token(config) and alone(config))
def packed_documents_equal_separate_ones(subject: Subject, dice: random.Random) -> None:
    documents = [some_tokens(dice, dice.randint(1, 7)) for _ in range(dice.randint(2, 4))]
    sources = [some_tokens(dice, dice.randint(1, 4)) if subject.paired else None for _ in documents]
    first, step = dice.choice([(0, 1), (100, -7), (3, 5)])  # documents may be numbered in any way
    numbers = [first + step * number for number in range(len(documents))]
    cotangent = subject.cotangent(sum(map(len, documents)), VOCAB_SIZE)

    source = None
    if subject.paired:
        order = dice.sample(range(len(documents)), len(documents))  # found by number, wherever it stands
        source = _packed([(numbers[i], sources[i] or []) for i in order])
    tokens = _packed(list(zip(numbers, documents, strict=True)))
    packed = subject.logits(tokens.tokens_BS, tokens.layout, source)[0]
    separate = torch.cat(
        [logits_alone(subject.model, text, source=read) for text, read in zip(documents, sources, strict=True)]
    )
    assert_equal_logits(packed, separate)
    assert_equal_gradients(
        gradients(subject.model, (packed * cotangent).sum()),
        gradients(subject.model, (separate * cotangent).sum()),
    )


@statement(by_token, share=0.3)
def no_document_has_a_gradient_from_another(subject: Subject, dice: random.Random) -> None:
    lengths = [dice.randint(1, 5) for _ in range(3)]
    tokens = _packed([(number, some_tokens(dice, length)) for number, length in enumerate(lengths)])
    read = _packed([(number, some_tokens(dice, 3)) for number in range(3)]) if subject.paired else None
    hook = Kept(subject.model.embedding)
    logits = subject.logits(tokens.tokens_BS, tokens.layout, read)[0]
    chosen = tokens.layout.document_BT == 1
    (logits * subject.cotangent(*logits.shape))[chosen[0]].sum().backward()  # type: ignore[no-untyped-call]
    hook.remove()
    layouts = [tokens.layout] if read is None else [read.layout, tokens.layout]
    for embedded, layout in zip(hook.outputs, layouts, strict=True):
        assert layout.document_BT is not None and embedded.grad is not None
        assert (embedded.grad[layout.document_BT != 1] == 0).all()
    assert not is_felt(subject.config, logits[chosen[0]]) or (hook.outputs[-1].grad[chosen] != 0).any()


def _packed(documents: list[tuple[int, list[int]]]) -> Source:
    """Documents, each with its number, in one row."""
    tokens = [token for _, text in documents for token in text]
    numbers = [number for number, text in documents for _ in text]
    return Source(torch.tensor([tokens]), Layout(document_BT=torch.tensor([numbers])))
