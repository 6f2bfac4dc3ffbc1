"""AdamW and Muon, against steps written by hand."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sublayer.model import ModelConfig, Transformer
from sublayer.training.optimizer import Optimizer
from sublayer.training.optimizer.adamw import AdamWConfig
from sublayer.training.optimizer.base import trained
from sublayer.training.optimizer.batched_muon import BatchedMuon
from sublayer.training.optimizer.muon import TOGETHER, MuonConfig

MODEL = {
    "vocab_size": 20,
    "d_model": 8,
    "n_layers": 2,
    "max_length": 8,
    "position": "learned",
    "norm": "layer",
    "attention": {"n_heads": 2},
    "tied_embeddings": False,
}


def transformer(**change: Any) -> Transformer:
    return Transformer(ModelConfig.parse(MODEL | change), seed=1)


class Experts(nn.Module):
    """A block with weights in three dimensions, as experts have them."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embedding = nn.Parameter(torch.randn(10, 6, generator=generator))
        self.blocks = nn.ModuleList([nn.Module()])
        self.blocks[0].experts = nn.Parameter(torch.randn(3, 6, 4, generator=generator))
        self.blocks[0].matrix = nn.Parameter(torch.randn(4, 6, generator=generator))
        self.blocks[0].scale = nn.Parameter(torch.ones(6))


def give_gradients(model: nn.Module, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    gradients = {}
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name] = torch.randn(parameter.shape, generator=generator)
    return gradients


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def steps(model: nn.Module, optimizer: Optimizer, *seeds: int, factor: float = 1.0) -> dict[str, Tensor]:
    for seed in seeds:
        give_gradients(model, seed)
        optimizer.step(factor)
    return values(model)


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


# ---------- AdamW


def adamw_by_hand(config: AdamWConfig, model: nn.Module, factors: list[float]) -> dict[str, Tensor]:
    weights = {name: value.double() for name, value in values(model).items()}
    first = {name: torch.zeros_like(value) for name, value in weights.items()}
    second = {name: torch.zeros_like(value) for name, value in weights.items()}
    for number, factor in enumerate(factors, 1):
        gradients = give_gradients(model, number)
        for name, weight in weights.items():
            gradient = gradients[name].double()
            first[name] = config.betas[0] * first[name] + (1 - config.betas[0]) * gradient
            second[name] = config.betas[1] * second[name] + (1 - config.betas[1]) * gradient**2
            mean = first[name] / (1 - config.betas[0] ** number)
            root = (second[name] / (1 - config.betas[1] ** number)).sqrt()
            decay = config.weight_decay if weight.ndim >= 2 else 0.0
            rate = config.lr * factor
            weights[name] = weight - rate * decay * weight - rate * mean / (root + config.epsilon)
    return {name: value.float() for name, value in weights.items()}


@pytest.mark.parametrize("build", [transformer, Experts])
def test_adamw_is_the_algorithm_with_decay_on_matrices_only(build: Any) -> None:
    config, model = AdamWConfig(lr=0.02, betas=(0.8, 0.9), weight_decay=0.3, epsilon=1e-3), build()
    factors = [0.5, 1.0, 0.25]
    expected = adamw_by_hand(config, build(), factors)
    optimizer = config.build(model)
    for number, factor in enumerate(factors, 1):
        steps(model, optimizer, number, factor=factor)
    assert_close(values(model), expected)


@pytest.mark.parametrize("kind", [AdamWConfig, MuonConfig])
def test_norms_and_biases_are_spared_and_embeddings_are_not(kind: Any) -> None:
    expert = {"kind": "gated", "bias": True}
    model = transformer(feed_forward={"kind": "experts", "n_experts": 3, "expert": expert, "router": {"bias": True}})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    before = values(model)
    adamw = AdamWConfig(lr=0.1, weight_decay=0.5)
    optimizer = (adamw if kind is AdamWConfig else MuonConfig(lr=0.1, weight_decay=0.5, adamw=adamw)).build(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(1.0)
    for name, value in values(model).items():
        matrix = value.ndim >= 2 and not name.endswith("_bias")
        torch.testing.assert_close(value, before[name] * (0.95 if matrix else 1.0))
    assert before["blocks.0.feed_forward.experts.up_bias"].ndim == 2
    assert any(value.ndim == 1 for value in before.values())
    assert before["embedding.weight"].ndim == 2


def test_a_frozen_parameter_stays() -> None:
    for config in (AdamWConfig(), MuonConfig()):
        model = transformer()
        model.blocks[0].attention.query.weight.requires_grad_(False)
        optimizer = config.build(model)
        assert "blocks.0.attention.query.weight" not in dict(trained(model))
        assert not any("blocks.0.attention.query" in name for name in names(optimizer))
        before = model.blocks[0].attention.query.weight.clone()
        steps(model, optimizer, 1)
        assert torch.equal(model.blocks[0].attention.query.weight, before)


# ---------- Muon


def names(optimizer: Optimizer, kind: type | None = None) -> list[str]:
    return [name for member, own in optimizer.members if kind is None or type(member) is kind for name in own]


def orthogonalised(matrix: Tensor, iterations: int = 5) -> Tensor:
    """Newton–Schulz as Jordan et al. 2024 have it, in bfloat16."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.bfloat16()
    if matrix.shape[0] > matrix.shape[1]:
        x = x.T
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if matrix.shape[0] > matrix.shape[1] else x).float()


def test_muon_takes_the_matrices_in_blocks_and_adamw_the_rest() -> None:
    optimizer = MuonConfig().build(transformer())
    everything = dict(transformer().named_parameters())
    matrices = {name for name, value in everything.items() if name.startswith("blocks.") and value.ndim == 2}
    assert set(names(optimizer, BatchedMuon)) == matrices
    assert set(names(optimizer, torch.optim.AdamW)) == everything.keys() - matrices
    assert {"embedding.weight", "head.output.weight", "positions.0.weight"} <= everything.keys() - matrices
    assert len(names(optimizer)) == len(everything)


@pytest.mark.parametrize("router", ["noisy_top_k", "expert_choice", "soft"])
def test_muon_leaves_routers_to_adamw_and_takes_each_expert(router: str) -> None:
    feed_forward = {
        "kind": "experts",
        "n_experts": 3,
        "router": router,
        "expert": {"kind": "gated", "bias": True},
        "shared": {"gate": True},
    }
    optimizer = MuonConfig().build(transformer(stack="encoder", feed_forward=feed_forward))
    inside = {name.removeprefix("blocks.0.feed_forward.") for name in names(optimizer) if "blocks.0.feed_f" in name}
    experts = {f"experts.{name}[{number}]" for name in ("gate", "up", "down") for number in range(3)}
    taken = experts | {f"shared.{name}.weight" for name in ("gate", "up", "down")}
    muon = {name.removeprefix("blocks.0.feed_forward.") for name in names(optimizer, BatchedMuon)}
    assert muon & inside == taken
    assert {"router.weight", "shared_gate.weight", "experts.up_bias"} <= inside - taken


def test_muon_is_the_algorithm() -> None:
    config, model = MuonConfig(lr=0.05, momentum=0.9, weight_decay=0.2, nesterov=False), transformer()
    optimizer = config.build(model)
    weights = {name: value for name, value in values(model).items() if name in names(optimizer, BatchedMuon)}
    momentum = {name: torch.zeros_like(value) for name, value in weights.items()}
    for number, factor in enumerate([1.0, 0.5], 1):
        gradients = give_gradients(model, number)
        for name, weight in weights.items():
            momentum[name] = 0.9 * momentum[name] + 0.1 * gradients[name]
            rate = config.lr * factor
            scale = math.sqrt(max(1.0, weight.shape[0] / weight.shape[1]))
            weights[name] = weight * (1 - rate * 0.2) - rate * scale * orthogonalised(momentum[name])
        optimizer.step(factor)
    # In bfloat16 the order of products matters in the second digit, so the updates are compared as wholes.
    found, start = values(model), values(transformer())
    for name, weight in weights.items():
        assert float((found[name] - weight).norm()) < 0.1 * float((weight - start[name]).norm()), name


def test_muon_s_decay_is_of_the_weight_and_times_the_rate() -> None:
    model = transformer()
    before, optimizer = values(model), MuonConfig(lr=0.1, weight_decay=0.5).build(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(0.5)
    for name in names(optimizer, BatchedMuon):
        torch.testing.assert_close(values(model)[name], before[name] * 0.975)


def test_what_muon_leaves_is_adamw_s() -> None:
    adamw = {"lr": 0.03, "weight_decay": 0.2}
    one, other = transformer(), transformer()
    muon = MuonConfig.parse({"lr": 0.01, "adamw": adamw}).build(one)
    with_muon, alone = steps(one, muon, 1, 2), steps(other, AdamWConfig.parse(adamw).build(other), 1, 2)
    rest = names(muon, torch.optim.AdamW)
    assert_close({name: with_muon[name] for name in rest}, {name: alone[name] for name in rest})


def test_a_batch_of_matrices_is_each_matrix_alone() -> None:
    config, model = MuonConfig(lr=0.05, weight_decay=0.1), Experts()
    optimizer = config.build(model)
    assert sorted(names(optimizer, BatchedMuon)) == [
        *(f"blocks.0.experts[{number}]" for number in range(3)),
        "blocks.0.matrix",
    ]
    alone = []
    for number in range(3):
        single = nn.Module()
        single.blocks = nn.ModuleList([nn.Module()])
        single.blocks[0].matrix = nn.Parameter(model.blocks[0].experts[number].detach().clone())
        alone.append((single, config.build(single)))
    for seed in (1, 2, 3):
        gradients = give_gradients(model, seed)
        optimizer.step(0.5)
        for number, (single, own) in enumerate(alone):
            single.blocks[0].matrix.grad = gradients["blocks.0.experts"][number].clone()
            own.step(0.5)
    for number, (single, _) in enumerate(alone):
        assert torch.equal(model.blocks[0].experts[number], single.blocks[0].matrix)


def test_an_expert_that_got_no_gradient_at_all_stays() -> None:
    model = Experts()
    optimizer = MuonConfig(weight_decay=0.0).build(model)
    give_gradients(model, 1)
    model.blocks[0].experts.grad = None
    before = model.blocks[0].experts.clone()
    optimizer.step(1.0)
    assert torch.equal(model.blocks[0].experts, before)


# ---------- state


@pytest.mark.parametrize("config", [AdamWConfig(lr=0.02), MuonConfig(lr=0.02)])
@pytest.mark.parametrize("build", [transformer, Experts])
def test_state_taken_back_goes_on_identically(config: Any, build: Any) -> None:
    model = build()
    optimizer = config.build(model)
    steps(model, optimizer, 1, 2)
    state = {name: value.clone() for name, value in optimizer.state().items()}
    assert state
    other = build()
    other.load_state_dict(model.state_dict())
    resumed = config.build(other)
    resumed.load(state)
    assert resumed.state().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in resumed.state().items())
    on, again = steps(model, optimizer, 3, 4), steps(other, resumed, 3, 4)
    for name, value in on.items():
        assert torch.equal(again[name], value), name
    # And it matters: without the state it goes elsewhere.
    third = build()
    third.load_state_dict(values(model))
    assert any(not torch.equal(value, on[name]) for name, value in steps(third, config.build(third), 3, 4).items())


def test_the_schedule_s_share_is_of_the_configured_rate_each_time() -> None:
    model = transformer()
    optimizer = MuonConfig.parse({"lr": 0.04, "adamw": {"lr": 0.02}}).build(model)
    for factor in (0.5, 0.25, 1.0):
        steps(model, optimizer, 1, factor=factor)
        rates = {type(member): member.param_groups[0]["lr"] for member, _ in optimizer.members}
        assert rates == pytest.approx({BatchedMuon: 0.04 * factor, torch.optim.AdamW: 0.02 * factor})


@pytest.mark.parametrize("adjust_lr", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", [(16, 16), (48, 16), (16, 48)])
def test_together_is_each_by_itself_as_torch_does_it(shape: tuple[int, int], nesterov: bool, adjust_lr: str) -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for _ in range(5)]
    options: dict[str, Any] = {
        "lr": 0.05,
        "momentum": 0.9,
        "weight_decay": 0.1,
        "nesterov": nesterov,
        "adjust_lr_fn": adjust_lr,
    }
    ours, theirs = ([nn.Parameter(value.clone()) for value in start] for _ in range(2))
    batched, single = BatchedMuon(ours, **options), torch.optim.Muon(theirs, **options)
    for number in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = other.grad = torch.randn(shape, generator=generator)
        if number == 1:
            ours[2].grad = theirs[2].grad = None
        batched.step()
        single.step()
        single.state[theirs[2]].setdefault("momentum_buffer", None)
        for mine, other in zip(ours, theirs, strict=True):
            # Newton–Schulz amplifies what bfloat16 rounds off; an update's numbers are about 1 times the rate.
            torch.testing.assert_close(mine, other, rtol=0.0, atol=0.05 * 0.05 * 3)
    assert set(batched.state[ours[0]]) == {"momentum_buffer"}


def test_parts_are_of_one_shape_and_no_larger_than_they_may_be() -> None:
    model = nn.Module()
    shapes = [(128, 512)] * 5 + [(128, 128), (1024, 512)]
    model.blocks = nn.ModuleList(nn.Linear(*shape, bias=False) for shape in shapes)
    members = [own for _, own in MuonConfig().build(model).members]
    assert TOGETHER == 2 * 512 * 128
    expected = [[6], [0, 1], [2, 3], [4], [5]]
    assert members == [[f"blocks.{number}.weight" for number in part] for part in expected]
