"""A decoder is causal: what stands later changes nothing before it."""

import torch
from hypothesis import strategies as st

from sublayer.model import Layout, ModelConfig
from tests.properties.composition import (
    VOCAB_SIZE,
    assert_equal_logits,
    compositions,
    keep_gradient,
    keeps_input,
    law,
    lively,
    random_tokens,
)


@law(examples=100, composition=compositions(stack="decoder"), data=st.data())
def test_a_changed_token_changes_no_logit_before_it(composition: ModelConfig, data: st.DataObject) -> None:
    model = lively(composition)
    n_tokens = data.draw(st.integers(2, 14), label="tokens")
    t = data.draw(st.integers(0, n_tokens - 1), label="changed")
    documents = data.draw(st.none() | st.just(torch.arange(n_tokens)[None] // 5), label="documents")
    before = random_tokens(1, 1, n_tokens)
    after = before.clone()
    after[0, t] = (before[0, t] + 1) % VOCAB_SIZE

    layout = Layout(document_BT=documents)
    first, second = model(before, layout).logits[0], model(after, layout).logits[0]
    assert_equal_logits(second[:t], first[:t], atol=1e-9)
    if keeps_input(composition):
        assert not torch.allclose(second[t], first[t], atol=1e-6), "the token's own logits should have changed"


@law(examples=10, composition=compositions(stack="decoder"))
def test_no_logit_has_a_gradient_from_a_later_embedding(composition: ModelConfig) -> None:
    model = lively(composition)
    embedded = keep_gradient(model.embedding)
    logits = model(random_tokens(2, 1, 8)).logits
    logits[0, 4].square().sum().backward()
    reached = embedded[0].grad[0].abs().sum(-1)
    assert (reached[5:] == 0).all()
    assert reached[4] > 0 or not keeps_input(composition)
