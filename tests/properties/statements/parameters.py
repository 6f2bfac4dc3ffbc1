"""Parameters: each is trained, and there are as many as is said."""

import random

import torch

from sublayer.model import ModelConfig, Transformer
from sublayer.model.cost import cost
from sublayer.model.experts import Mixture
from sublayer.model.ghost import ghost
from tests.properties.composition import keeps_input, lively, mixtures, random_tokens
from tests.properties.statement import Subject, statement


@statement()
def every_parameter_gets_a_finite_gradient(subject: Subject, dice: random.Random) -> None:
    exempt = cancelled(subject.config)
    still = {name for name, _ in subject.model.named_parameters() if not any(part in name for part in exempt)}
    for seed in range(8):  # of few units, all may be off for all tokens; but not in every model
        model = subject.model if seed == 0 else lively(subject.config, seed)
        loss = model(random_tokens(1, 2, 8), source=subject.source(2), targets=subject.targets(2, 8)).loss
        assert loss is not None and loss.isfinite()
        model.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for name, parameter in model.named_parameters():
            if name.endswith("noise_weight"):  # it is for training only
                still.discard(name)
                continue
            assert parameter.grad is not None, f"{name} has no gradient: nothing reads it"
            assert parameter.grad.isfinite().all(), name
            if (parameter.grad != 0).any():
                still.discard(name)
        if not still or not keeps_input(subject.config):
            return
    raise AssertionError(f"{sorted(still)} have a gradient of 0")


def cancelled(config: ModelConfig) -> list[str]:
    """In whose parameters some have no gradient by right: as a softmax cancels them (a bias of keys; everything about
    scores where a query sees itself alone), or as a threshold that all queries but the first are beyond, or as a power
    of distances that are 0 and 1, or the weight of a single expert."""
    seen = [(layer.attention, config.shape.direction) for layer in config.resolve()]
    seen += [(layer.attention, "bidirectional") for layer in config.resolve_encoder()]
    first, third = torch.tensor(0), torch.tensor(2)
    near = any(
        not attention.seen(direction).visible(third, first)
        # A class may be read from the first token alone, and a token kept in view is so for those behind it.
        or (direction == "bidirectional" and not attention.seen(direction).visible(first, third))
        for attention, direction in seen
    )
    one = any(each.n_experts == 1 for each in mixtures(config))
    return ["key", "query", "threshold", *(["positions"] if near else []), *(["router"] if one else [])]


@statement()
def there_are_as_many_parameters_as_is_counted(subject: Subject, dice: random.Random) -> None:
    meta = ghost(subject.config)
    counted, model = cost(meta).parameters, subject.model
    assert counted.total == sum(parameter.numel() for parameter in model.parameters())
    idle = sum(
        sum(p.numel() for p in box.experts.parameters()) * (1 - box.config.chosen / box.config.n_experts)
        for box in model.modules()
        if isinstance(box, Mixture) and box.config.chosen
    )
    assert counted.active == counted.total - round(idle)
    assert counted.non_embedding == model.n_parameters(embeddings=False)
    assert {name: p.shape for name, p in meta.named_parameters()} == {
        name: p.shape for name, p in model.named_parameters()
    }


@statement(share=0.2)
def the_seed_decides_and_torch_s_generator_is_left_alone(subject: Subject, dice: random.Random) -> None:
    seed = dice.randrange(1000)
    torch.manual_seed(seed)
    before = torch.random.get_rng_state()
    one = Transformer(subject.config, seed)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(seed + 1)
    again, another = Transformer(subject.config, seed), Transformer(subject.config, seed + 1)
    for (name, first), second in zip(one.named_parameters(), again.parameters(), strict=True):
        assert first.isfinite().all(), name
        assert torch.equal(first, second), name
    assert not torch.equal(one.embedding.weight, another.embedding.weight)
