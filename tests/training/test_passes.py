"""Passes of a step: what an auxiliary loss is a function of does not depend on how the step is divided."""

import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sublayer.data import Batch
from sublayer.model import ModelConfig, Transformer
from sublayer.model.loss import IGNORED
from sublayer.model.report import Report
from sublayer.training.crew import Crew
from sublayer.training.gradients import reduce_gradients
from sublayer.training.passes import Passed, Passes, scored
from sublayer.training.ranks import over_ranks
from tests.ranks import on_ranks

ROWS, LENGTH, VOCABULARY = 8, 12, 32
CPU = torch.device("cpu")
WIDE = {"kind": "load", "weight": 0.5, "scope": "global_batch"}
NARROW = [{"kind": "load", "weight": 0.5}, {"kind": "importance", "weight": 0.5}, {"kind": "z_loss", "weight": 0.1}]


def model_of(balance: object, **feed_forward: object) -> Transformer:
    """Two layers with experts, in double precision; attention dropout or noise only where they are asked for."""
    experts = {"kind": "experts", "n_experts": 4, "top_k": 2, "balance": balance, **feed_forward}
    config = ModelConfig.parse(
        {
            "vocab_size": VOCABULARY,
            "d_model": 8,
            "n_layers": 2,
            "max_length": LENGTH,
            "attention": {"n_heads": 2},
            "feed_forward": experts,
        }
    )
    return Transformer(config).double().train()


def batches(first: int, last: int, parts: int) -> list[Batch]:
    """Rows of one and the same batch, in parts; they have unequal numbers of targets."""
    drawn = torch.Generator().manual_seed(1)
    tokens_BT = torch.randint(0, VOCABULARY, (ROWS, LENGTH), generator=drawn)
    targets_BT = torch.randint(0, VOCABULARY, (ROWS, LENGTH), generator=drawn)
    for row in range(ROWS):
        targets_BT[row, 3 + row :] = IGNORED
    rows = zip(tokens_BT[first:last].chunk(parts), targets_BT[first:last].chunk(parts), strict=True)
    return [Batch(tokens, targets, None, None, None) for tokens, targets in rows]


def gradients(model: Transformer, given: list[Batch], accumulation: int, threads: int) -> tuple[Passed, list[Tensor]]:
    """What the passes gave, in a second step, since threads come in behind the first; and the gradients."""
    with Crew(threads, 1) as crew:
        passes = Passes(model, model, crew, CPU, torch.float32, accumulation)
        state = torch.get_rng_state()
        for _ in range(2):
            torch.set_rng_state(state)
            model.zero_grad()
            passed = passes.through(given)
    return passed, [p.grad if p.grad is not None else torch.zeros_like(p) for p in passes.parameters]


def whole(model: Transformer) -> tuple[dict[str, Tensor], list[Tensor], dict[str, Tensor]]:
    """One large batch, without anything of the training room: losses, gradients and counts."""
    model.zero_grad()
    batch = batches(0, ROWS, 1)[0]
    out = model(batch.tokens_BT, targets=batch.targets_BT)
    out.loss.backward()
    found = [p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]
    return {"loss": out.loss.detach(), **out.losses}, [each.clone() for each in found], dict(out.report.counts)


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def assert_same_counts(found: Passed, expected: dict[str, Tensor]) -> None:
    assert found.counts.keys() == expected.keys()
    assert any(name.endswith(".load") for name in expected)
    for name, value in expected.items():
        if value.is_floating_point():
            torch.testing.assert_close(found.counts[name], value, rtol=1e-9, atol=1e-12)
        else:
            assert torch.equal(found.counts[name], value), name


@pytest.mark.parametrize(("accumulation", "threads"), [(1, 2), (2, 1), (4, 1), (2, 2), (1, 4)])
def test_a_balance_of_the_step_does_not_know_how_it_is_divided(accumulation: int, threads: int) -> None:
    model = model_of([WIDE, {"kind": "loss_free"}])
    losses, expected, counts = whole(model)
    passed, found = gradients(model, batches(0, ROWS, accumulation * threads), accumulation, threads)
    assert_close(found, expected)
    assert_same_counts(passed, counts)
    assert passed.losses.keys() == losses.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(passed.losses[name], loss.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_balance_of_a_micro_batch_does_not_know_of_threads(accumulation: int, threads: int) -> None:
    model = model_of([*NARROW, WIDE])
    alone, expected = gradients(model, batches(0, ROWS, accumulation), accumulation, 1)
    passed, found = gradients(model, batches(0, ROWS, accumulation * threads), accumulation, threads)
    assert_close(found, expected)
    assert passed.losses.keys() == alone.losses.keys()
    for name, loss in alone.losses.items():
        torch.testing.assert_close(passed.losses[name], loss, rtol=1e-9, atol=1e-12)
    parts = [loss for name, loss in passed.losses.items() if name != "loss"]
    torch.testing.assert_close(torch.stack(parts).sum(), passed.losses["loss"], rtol=1e-9, atol=1e-12)


def test_scopes_differ_and_are_not_those_of_single_shares() -> None:
    """Or else the tests above would prove nothing."""
    model = model_of(NARROW)
    once, _ = gradients(model, batches(0, ROWS, 1), 1, 1)
    by_micro_batch, _ = gradients(model, batches(0, ROWS, 4), 4, 1)
    assert not torch.allclose(by_micro_batch.losses["loss"], once.losses["loss"], rtol=1e-6)


def as_a_rank(rank: int, balance: object) -> None:
    """Half of the rows; the gradients summed over ranks are those of all, and so are counts and losses."""
    model = model_of(balance)
    losses, expected, counts = whole(model)
    passed, _ = gradients(model, batches(4 * rank, 4 * rank + 4, 1), 1, 1)
    reduce_gradients(model)
    assert_close([p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()], expected)
    assert_same_counts(passed, counts)
    assert passed.losses.keys() == losses.keys()
    for name, loss in losses.items():
        found = passed.losses[name].detach().clone()
        dist.all_reduce(found)
        torch.testing.assert_close(found, loss.detach(), rtol=1e-9, atol=1e-12)


def test_two_ranks_are_one_large_batch(tmp_path: Path) -> None:
    on_ranks(2, as_a_rank, tmp_path, [WIDE])


def test_one_rank_adds_nothing_up() -> None:
    told = Report(counts={"load": torch.ones(3)})
    assert over_ranks(told) is told


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_pass_that_counts_draws_what_the_pass_behind_it_draws(accumulation: int) -> None:
    """The step's noise is drawn once, however often it is looked at: its sums are the ones that were counted."""
    model = model_of([WIDE, {"kind": "loss_free"}], router={"kind": "noisy_top_k"}, expert_dropout=0.3)
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "noise_weight"):
                module.noise_weight.fill_(0.3)
    given = batches(0, ROWS, accumulation)
    torch.manual_seed(5)
    passed, found = gradients(model, given, accumulation, 1)
    after = torch.get_rng_state()

    torch.manual_seed(5)
    model.zero_grad()
    outs = [model(batch.tokens_BT, targets=batch.targets_BT) for batch in given]
    assert torch.equal(after, torch.get_rng_state())
    total = Report()
    for out in outs:
        total = total + Report(sums=out.report.sums, counts=out.report.counts)
    n_scored = [scored(batch) for batch in given]
    weights = [each / sum(n_scored) for each in n_scored]
    loss = sum(out.losses["cross_entropy"] * weight for out, weight in zip(outs, weights, strict=True))
    loss = loss + torch.stack(list(model.auxiliary(total).values())).sum()
    loss.backward()
    expected = [p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]
    assert_close(found, expected)
    assert_same_counts(passed, {name: value.detach() for name, value in total.counts.items()})


class Recomputed(nn.Module):
    """A block whose activations are computed again in the backward pass."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, *given: object) -> object:
        return checkpoint(self.block, *given, use_reentrant=False)

    def __getattr__(self, name: str) -> object:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.block, name)


@pytest.mark.parametrize("threads", [1, 2])
def test_recomputation_counts_nothing_twice(threads: int) -> None:
    model = model_of([*NARROW, WIDE, {"kind": "loss_free"}], capacity={"factor": 1.0})
    given = batches(0, ROWS, 2 * threads)
    alone, expected = gradients(model, given, 2, threads)
    model.blocks = nn.ModuleList(Recomputed(block) for block in model.blocks)
    passed, found = gradients(model, given, 2, threads)
    assert_close(found, expected)
    assert_same_counts(passed, dict(alone.counts))


def test_autocast_counts_every_token() -> None:
    model = model_of(NARROW).float()
    given = batches(0, ROWS, 4)
    with Crew(2, 1) as crew:
        one = Passes(model, model, crew, CPU, torch.float32, 2).through(given)
        other = Passes(model, model, crew, CPU, torch.bfloat16, 2).through(given)
    assert one.counts.keys() == other.counts.keys()
    for name, value in one.counts.items():
        assert other.counts[name].dtype == value.dtype, name
        if name.endswith(".tokens"):
            assert torch.equal(other.counts[name], value)
        if name.endswith(".load"):  # below bfloat16, near ties are decided otherwise
            assert other.counts[name].sum() == value.sum()
            assert (other.counts[name] - value).abs().sum() <= 0.1 * value.sum()


@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="needs a C++ compiler")
@pytest.mark.slow
def test_a_compiled_model_counts_the_same() -> None:
    model = model_of([*NARROW, WIDE]).float()
    given = batches(0, ROWS, 2)
    alone, _ = gradients(model, given, 2, 1)
    with Crew(1) as crew:
        model.zero_grad()
        compiled = Passes(model, torch.compile(model), crew, CPU, torch.float32, 2).through(given)
    for name, value in alone.counts.items():
        torch.testing.assert_close(compiled.counts[name], value)
    for name, loss in alone.losses.items():
        torch.testing.assert_close(compiled.losses[name], loss, rtol=1e-4, atol=1e-6)
