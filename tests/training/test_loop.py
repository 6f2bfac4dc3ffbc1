"""The loop: what a step is made of, whatever it is divided into."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sublayer.api import Run, train
from sublayer.data import Batch, Corpus
from sublayer.model.loss import IGNORED
from sublayer.training.passes import apart

from .runs import assert_equal_tensors, tree

SMOOTH = {"kind": "adamw", "lr": 0.1, "epsilon": 1.0}
"""So large an epsilon makes AdamW nearly linear in the gradient: rounding stays rounding."""


def weights(run: Run) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def figures(run: Run, name: str) -> list[float]:
    lines = [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


@pytest.fixture
def ragged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows with unequal numbers of scored tokens, one in four with none."""
    real = Corpus.batch

    def batch(self: Corpus, seed: int, first_sample: int, count: int) -> Batch:
        rows = real(self, seed, first_sample, count)
        targets_BT = rows.targets_BT.clone()
        for row in range(count):
            scored = (first_sample + row) % 4 * 5
            targets_BT[row, scored:] = IGNORED
        return dataclasses.replace(rows, targets_BT=targets_BT)

    monkeypatch.setattr(Corpus, "batch", batch)


SHARED = """
from typing import Literal
import torch
from torch import nn
from sublayer.model.initialise import Constant
from sublayer.model.norm import NormConfig
from sublayer.registry import register

class Sum(nn.Module):
    '''Two parameters that always meet: autograd gives both the very same gradient.'''
    def __init__(self, width):
        super().__init__()
        self.one, self.two = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))
    def initial_values(self):
        return {"one": Constant(0.5), "two": Constant(0.5)}
    def forward(self, x):
        return x * (self.one + self.two)

@register
class SumConfig(NormConfig):
    '''A gain in two halves.'''
    kind: Literal["sum"] = "sum"
    def build(self, width):
        return Sum(width)
"""


@pytest.mark.parametrize(
    "division", [{"accumulation": 2}, {"accumulation": 8}, {"threads": 3}, {"accumulation": 2, "threads": 2}]
)
@pytest.mark.parametrize("norm", ["rms", "sum"])
def test_a_step_divided_is_the_step_whole(
    division: dict[str, int], norm: str, notes: Path, tmp_path: Path, ragged: None, registries: None
) -> None:
    (tmp_path / "sum.py").write_text(SHARED)
    config = tree(notes, model={"norm": norm}, batch_size=8, steps=4, optimizer=SMOOTH, clip_norm=0.7)
    config["plugins"] = [str(tmp_path / "sum.py")]
    whole = train(config, out=tmp_path / "whole", **{"training.threads": 1})
    before = weights(whole)
    divided = train(config, out=tmp_path / "divided", **{f"training.{key}": value for key, value in division.items()})
    assert figures(divided, "loss") == pytest.approx(figures(whole, "loss"), rel=1e-5)
    assert figures(divided, "grad_norm") == pytest.approx(figures(whole, "grad_norm"), rel=1e-4)
    for name, value in weights(divided).items():
        torch.testing.assert_close(
            value, before[name], rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_gradients_have_memory_of_their_own() -> None:
    one, two, three, unused = (nn.Parameter(torch.ones(2, 3)) for _ in range(4))
    loss = ((one + two) * torch.arange(3.0)).sum() + three.sum()
    own = apart(torch.autograd.grad(loss, [one, two, three, unused], allow_unused=True))
    assert own[3] is None
    for number, gradient in enumerate(own[:3]):
        assert gradient is not None
        gradient.add_(number + 1.0)
    ramp = torch.arange(3.0).expand(2, 3)
    for found, expected in zip(own, (ramp + 1, ramp + 2, torch.full((2, 3), 4.0)), strict=False):
        assert torch.equal(found, expected)


def test_the_loss_is_the_mean_over_scored_tokens(notes: Path, tmp_path: Path, ragged: None) -> None:
    run = train(
        tree(notes, batch_size=8, accumulation=4, steps=1, optimizer={"kind": "adamw", "lr": 1e-12}),
        out=tmp_path / "run",
    )
    batch = run.corpus.batch(0, 0, 8)
    from sublayer.measures.held_out import layout_of

    logits = run.model(batch.tokens_BT, layout_of(batch, torch.device("cpu"))).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets_BT.flatten(), ignore_index=IGNORED)
    assert figures(run, "loss") == pytest.approx([expected.item()], rel=1e-5)


@pytest.mark.parametrize("division", [{}, {"accumulation": 2}, {"accumulation": 6}, {"threads": 4}])
def test_every_division_asks_for_the_same_samples(
    division: dict[str, int], notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real = Corpus.batch

    def batch(self: Corpus, seed: int, first_sample: int, count: int) -> Batch:
        assert seed == 5
        asked.extend(range(first_sample, first_sample + count))
        return real(self, seed, first_sample, count)

    monkeypatch.setattr(Corpus, "batch", batch)
    train(tree(notes, batch_size=6, steps=3, seed=5, **division), out=tmp_path / "run")
    assert asked == list(range(18))


def test_a_gradient_is_clipped_to_its_norm(notes: Path, tmp_path: Path) -> None:
    def moved(clip: float | None) -> tuple[float, Tensor]:
        config = tree(
            notes, steps=1, clip_norm=clip, optimizer={"kind": "adamw", "lr": 1.0, "epsilon": 1e3, "weight_decay": 0}
        )
        run = train(config, out=tmp_path / str(clip))
        start = train(
            config | {"training": config["training"] | {"optimizer": {"kind": "adamw", "lr": 1e-12}}},
            out=tmp_path / f"{clip}-still",
        )
        before = weights(start)
        # With such an epsilon the step is the gradient over 1000.
        step = torch.cat([(before[name] - value).flatten() for name, value in weights(run).items()])
        return figures(run, "grad_norm")[0], step * 1e3

    norm, free = moved(None)
    assert float(free.norm()) == pytest.approx(norm, rel=2e-2)
    told, clipped = moved(norm / 4)
    assert told == pytest.approx(norm)  # the norm that is told is the one before clipping
    assert float(clipped.norm()) == pytest.approx(norm / 4, rel=2e-2)
    assert float(torch.cosine_similarity(clipped, free, dim=0)) > 0.999
    _, loose = moved(norm * 4)
    torch.testing.assert_close(loose, free)


def test_the_rate_follows_the_schedule(notes: Path, tmp_path: Path) -> None:
    schedule = {"kind": "linear", "warmup": 2, "floor": 0.5}
    run = train(tree(notes, steps=6, schedule=schedule, optimizer={"kind": "adamw", "lr": 0.01}), out=tmp_path / "run")
    assert figures(run, "lr") == pytest.approx([0.005, 0.01, 0.01, 0.00875, 0.0075, 0.00625])


def test_evaluating_changes_nothing(notes: Path, tmp_path: Path) -> None:
    config = tree(notes, model={"dropout": 0.3}, optimizer="muon")
    often = train(config, out=tmp_path / "often", **{"training.evaluate_every": 1, "training.evaluation_tokens": None})
    seldom = train(config, out=tmp_path / "seldom", **{"training.evaluate_every": 6})
    assert_equal_tensors(weights(often), weights(seldom))
    assert often.held_out == seldom.held_out
    assert not often.model.training


@pytest.mark.parametrize("training", [True, False])
def test_held_out_reads_in_evaluation_mode_and_leaves_the_mode(training: bool, notes: Path, tmp_path: Path) -> None:
    from sublayer.measures.held_out import held_out

    run = train(tree(notes, model={"dropout": 0.5}, steps=1), out=tmp_path / "run")
    state = torch.get_rng_state()
    run.model.train(training)
    assert held_out(run.model, run.corpus, 2) == held_out(run.model, run.corpus, 2)
    assert run.model.training is training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in run.model.parameters())
    # However the rows are batched; the loss is that of the domain's every token.
    assert held_out(run.model, run.corpus, 7)["notes"].nats == pytest.approx(run.held_out["notes"].nats, rel=1e-5)
    # A token a byte, and one more where each of the three files but the first begins.
    assert run.held_out["notes"].bytes == run.held_out["notes"].tokens - 2


def test_the_seed_decides_everything(notes: Path, tmp_path: Path) -> None:
    config = tree(notes, model={"dropout": 0.3}, steps=2)
    first, again = (train(config, out=tmp_path / name) for name in ("first", "again"))
    torch.rand(3)
    other = train(config, out=tmp_path / "other", **{"training.seed": 1})
    assert_equal_tensors(weights(first), weights(again))
    assert figures(other, "loss") != figures(first, "loss")


def test_bfloat16_trains_with_weights_in_float32(notes: Path, tmp_path: Path) -> None:
    config = tree(notes, steps=30, optimizer={"kind": "adamw", "lr": 0.01})
    half = train(config, out=tmp_path / "half", dtype="bfloat16")
    full = train(config, out=tmp_path / "full")
    assert {value.dtype for value in half.model.state_dict().values()} == {torch.float32}
    assert figures(half, "loss") != figures(full, "loss")
    assert figures(half, "loss") == pytest.approx(figures(full, "loss"), rel=0.03)
    assert figures(half, "loss")[-1] < figures(half, "loss")[0] - 1
    assert half.held_out["notes"].loss == pytest.approx(full.held_out["notes"].loss, rel=0.03)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="needs a C++ compiler")
def test_a_compiled_model_trains_like_the_other(notes: Path, tmp_path: Path) -> None:
    config = tree(notes, optimizer=SMOOTH, threads=1)
    eager = train(config, out=tmp_path / "eager")
    compiled = train(config, out=tmp_path / "compiled", **{"training.compile": True})
    assert figures(compiled, "loss") == pytest.approx(figures(eager, "loss"), rel=1e-4)
    for name, value in weights(compiled).items():
        torch.testing.assert_close(value, weights(eager)[name], rtol=1e-3, atol=1e-5)


def test_a_written_config_repeats_the_run(notes: Path, tmp_path: Path) -> None:
    config = tree(notes, model={"dropout": 0.3, "layers": [{"feed_forward": "geglu"}]}, optimizer="muon")
    first = train(config, out=tmp_path / "first", **{"training.seed": 7})
    again = train(tmp_path / "first" / "config.yaml", out=tmp_path / "again")
    assert again.config == first.config
    for name in ("metrics.jsonl", "config.yaml", "model.safetensors", "summary.json", "config.json", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "first" / name).read_bytes(), name
