"""The estimate of training memory.  Beside measured runs: benchmarks/check.py, and a slow test."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sublayer.data import RowShape
from sublayer.model import ModelConfig, Transformer
from sublayer.model.ghost import ghost
from sublayer.training.config import TrainingConfig
from sublayer.training.memory import NotRehearsed, TrainingMemory, _share, training_memory
from sublayer.training.rehearsal import Rehearsal

CPU = torch.device("cpu")
MODEL = {"vocab_size": 512, "d_model": 64, "n_layers": 2, "attention": {"n_heads": 2}}


def memory(length: int = 64, dtype: torch.dtype = torch.float32, **changes: Any) -> TrainingMemory:
    model = {key: value for key, value in changes.items() if key in ModelConfig.model_fields}
    training = {key: value for key, value in changes.items() if key not in model}
    config = TrainingConfig(**{"batch_size": 8, "threads": 1} | training)
    return training_memory(ModelConfig(**MODEL | model), config, RowShape(length, packed=True), CPU, dtype)


def test_the_parts_add_up() -> None:
    for threads in (1, 2):
        told = memory(threads=threads)
        parts = (told.weights, told.optimizer, told.gradients, told.activations, told.allocator, told.libraries)
        assert told.peak == sum(parts) + told.saving
        assert told.threads == threads


def test_weights_and_the_optimizer_s_memory() -> None:
    n_bytes = 4 * ghost(ModelConfig(**MODEL)).n_parameters()
    adamw, muon = memory(optimizer="adamw"), memory(optimizer="muon")
    assert adamw.weights == adamw.gradients == n_bytes
    assert adamw.optimizer == pytest.approx(2 * n_bytes, rel=0.01)  # two means, and a count of steps
    hidden = 4 * 2 * (4 * 64 * 64 + 3 * 64 * 192)
    assert muon.optimizer == pytest.approx(2 * n_bytes - hidden, rel=0.01)  # one for the matrices inside


def test_more_rows_and_longer_ones_take_more_and_accumulation_less() -> None:
    base = memory()
    assert memory(batch_size=16).activations == pytest.approx(2 * base.activations, rel=0.1)
    assert memory(length=128).activations > 2 * base.activations
    assert memory(accumulation=4).activations < 0.5 * base.activations
    assert memory(dtype=torch.bfloat16).activations < base.activations
    assert memory(n_layers=4).activations > 1.5 * base.activations


def test_each_thread_has_gradients_of_its_own() -> None:
    one, two = memory(), memory(threads=2)
    assert two.gradients == 2 * one.gradients
    assert memory(threads=2, accumulation=2).gradients == 3 * one.gradients
    assert memory(threads=16).threads == 8  # no more than there are rows
    drawing = memory(threads=2, dropout=0.1)
    assert drawing.threads == 1  # whose random numbers are drawn in order
    assert drawing.allocator == 0


def test_shares_that_wait_for_each_other_s_sums_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = memory(threads=2, dropout=0.1)
    monkeypatch.setattr(Transformer, "scopes", lambda _: frozenset({"micro_batch"}))
    coupled = memory(threads=2, dropout=0.1)
    assert coupled.activations > 1.7 * alone.activations
    assert coupled.gradients == alone.gradients  # they still go backward one after the other


def test_a_long_vocabulary_costs_its_gradient_and_not_its_logits() -> None:
    small, large = memory(), memory(vocab_size=64 * 512)
    grown = large.activations + large.gradients - small.activations - small.gradients
    matrix = 4 * 64 * 63 * 512
    assert 2 * matrix < grown < 6 * matrix
    assert grown < 4 * 8 * 64 * 64 * 512  # the logits of the batch in float32


def test_the_loss_stands_for_the_one_that_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass with the stand-in, and one with the real loss in all its chunks."""
    for changes in ({}, {"vocab_size": 4096}, {"vocab_size": 20_000, "tied_embeddings": False}):
        config = ModelConfig(**MODEL | changes)
        for dtype in (torch.float32, torch.bfloat16):
            rehearsal = Rehearsal(CPU)
            model = ghost(config).train()
            rehearsal.inhabit(model)
            with rehearsal:
                stand_in = _share(rehearsal, model, 4, RowShape(128), dtype).peak
                before = rehearsal.held
                rehearsal.mark()
                tokens = torch.zeros(4, 128, dtype=torch.int64)
                with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32, cache_enabled=False):
                    loss = model(tokens, targets=tokens).loss
                torch.autograd.grad(loss, list(model.parameters()))
                real = rehearsal.peak - before
            assert stand_in == pytest.approx(real, rel=0.12), (changes, dtype)


def test_a_convolution_s_few_tokens_beside_other_documents_are_not_looked_for() -> None:
    """It looks at numbers for them, and goes without in a rehearsal."""
    config, training = ModelConfig(**MODEL | {"feed_forward": "convolutional"}), TrainingConfig(batch_size=8, threads=1)
    packed, alone = (
        training_memory(config, training, RowShape(64, packed=packed), CPU, torch.float32).activations
        for packed in (True, False)
    )
    assert memory(feed_forward="gelu").activations < alone < packed < 1.1 * alone


def test_a_part_that_looks_at_numbers_cannot_be_rehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    from sublayer.model.feed_forward.gated import Gated

    forward = Gated.forward

    def looking(self: Gated, x: torch.Tensor, *rest: Any) -> Any:
        return forward(self, x if bool(x.sum() > 0) else -x, *rest)

    monkeypatch.setattr(Gated, "forward", looking)
    with pytest.raises(NotRehearsed):
        memory()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads /proc")
def test_estimates_are_within_a_quarter_of_what_is_measured() -> None:
    benchmark = Path(__file__).parents[2] / "benchmarks" / "check.py"
    ended = subprocess.run([sys.executable, str(benchmark), "--json"], capture_output=True, text=True, check=True)
    rows = json.loads(ended.stdout)
    assert len(rows) == 10
    for row in rows:
        assert row["estimated"] == pytest.approx(row["measured"], rel=0.25), row["name"]
