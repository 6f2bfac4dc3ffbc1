"""In training: losses and gradients are finite, and torch's generator decides all that is drawn."""

import random

import torch

from sublayer.model import Transformer
from tests.properties.composition import random_tokens
from tests.properties.statement import Subject, statement


@statement(share=0.25)
def a_training_step_is_finite_and_decided_by_torch_s_generator(subject: Subject, dice: random.Random) -> None:
    model = Transformer(subject.config, dice.randrange(9)).train()
    tokens, targets, source = random_tokens(1, 2, 8), subject.targets(2, 8), subject.source(2)
    losses = []
    for _ in range(2):
        torch.manual_seed(7)
        loss = model(tokens, source=source, targets=targets).loss
        assert loss is not None and loss.isfinite()
        losses.append(loss)
    assert torch.equal(*losses)
    losses[0].backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
