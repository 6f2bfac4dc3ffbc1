"""A decoder is causal: what stands later changes nothing before it."""

import random

import torch

from sublayer.model import Layout, Source
from tests.properties.composition import VOCAB_SIZE, Kept, assert_equal_logits, is_felt, random_tokens
from tests.properties.statement import Subject, decodes, statement


@statement(decodes)
def a_changed_token_changes_no_logit_before_it(subject: Subject, dice: random.Random) -> None:
    n_tokens = dice.randint(2, 12)
    t = dice.randrange(n_tokens)
    before = random_tokens(dice.randrange(99), 1, n_tokens)
    after = before.clone()
    after[0, t] = (before[0, t] + 1) % VOCAB_SIZE
    layout, source = None, subject.source(1, 9)
    if dice.random() < 0.5:
        layout = Layout(document_BT=torch.arange(n_tokens)[None] // 5)
        source = None if source is None else Source(source, Layout(document_BT=torch.arange(9)[None] // 3))

    with torch.no_grad():
        first, second = (subject.logits(tokens, layout, source)[0] for tokens in (before, after))
    assert_equal_logits(second[:t], first[:t], atol=1e-9)
    assert not is_felt(subject.config, first[t]) or not torch.equal(second[t], first[t]), "its own logits should change"


@statement(decodes, share=0.3)
def no_logit_has_a_gradient_from_a_later_embedding(subject: Subject, dice: random.Random) -> None:
    t = dice.randrange(7)
    hook = Kept(subject.model.embedding)
    logits = subject.logits(random_tokens(2, 1, 8))
    (logits[0, t] * subject.cotangent(VOCAB_SIZE)).sum().backward()  # type: ignore[no-untyped-call]
    reached = hook.outputs[-1].grad  # the last to be embedded: a source is before
    hook.remove()
    assert reached is not None
    assert (reached[0, t + 1 :] == 0).all()
    assert not is_felt(subject.config, logits[0, t]) or (reached[0, t] != 0).any()
