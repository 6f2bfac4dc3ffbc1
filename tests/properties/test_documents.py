"""Documents packed into one row are as good as documents in rows of their own."""

import torch
from hypothesis import strategies as st

from sublayer.model import Layout, ModelConfig
from tests.properties.composition import (
    assert_equal_gradients,
    assert_equal_logits,
    compositions,
    gradients,
    keep_gradient,
    keeps_input,
    law,
    lively,
    logits_alone,
    random_tokens,
)

lengths = st.lists(st.integers(1, 7), min_size=2, max_size=4)


@law(examples=100, composition=compositions(), lengths_=lengths, label=st.sampled_from([(0, 1), (100, -7), (3, 5)]))
def test_packed_documents_equal_separate_ones(
    composition: ModelConfig, lengths_: list[int], label: tuple[int, int]
) -> None:
    model = lively(composition)
    documents = [random_tokens(number, length) for number, length in enumerate(lengths_)]
    first, step = label  # documents may be numbered in any way
    numbers = [torch.full((length,), first + step * number) for number, length in enumerate(lengths_)]
    cotangent = torch.randn(sum(lengths_), 11, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    packed = model(torch.cat(documents)[None], Layout(document_BT=torch.cat(numbers)[None])).logits[0]
    separate = torch.cat([logits_alone(model, document.tolist()) for document in documents])
    assert_equal_logits(packed, separate)
    assert_equal_gradients(
        gradients(model, (packed * cotangent).sum()),
        gradients(model, (separate * cotangent).sum()),
    )


@law(examples=40, composition=compositions(), lengths_=lengths)
def test_no_document_has_a_gradient_from_another(composition: ModelConfig, lengths_: list[int]) -> None:
    model = lively(composition)
    embedded = keep_gradient(model.embedding)
    numbers = torch.repeat_interleave(torch.arange(len(lengths_)), torch.tensor(lengths_))
    logits = model(random_tokens(4, 1, sum(lengths_)), Layout(document_BT=numbers[None])).logits[0]
    logits[numbers == 1].square().sum().backward()
    reached = embedded[0].grad[0].abs().sum(-1)
    assert (reached[numbers != 1] == 0).all()
    assert (reached[numbers == 1] > 0).any() or not keeps_input(composition)
