"""Computing without numbers: what tensors would hold, beside what real ones do."""

import gc

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sublayer.model import ModelConfig, Transformer
from sublayer.model.ghost import ghost
from sublayer.training.rehearsal import Hollow, Rehearsal

CPU = torch.device("cpu")


def test_bytes_are_counted_while_tensors_live() -> None:
    rehearsal = Rehearsal(CPU)
    with rehearsal:
        x = torch.empty(10, 10)
        assert (rehearsal.held, rehearsal.peak) == (400, 400)
        y = x + 1
        assert rehearsal.held == 800
        view = y[2:]
        del y
        assert rehearsal.held == 800  # the view holds it
        del view
        assert rehearsal.held == 400
        x.add_(1)
        assert rehearsal.held == 400
        assert rehearsal.peak == 800
        rehearsal.mark()
        assert rehearsal.peak == 400
    assert isinstance(x, Hollow)
    assert (x.device, x.dtype, x.shape) == (CPU, torch.float32, (10, 10))


def test_small_tensors_are_counted_apart() -> None:
    rehearsal = Rehearsal(CPU, small=400)
    with rehearsal:
        small, large = torch.empty(10, 10), torch.empty(11, 10)
        assert (rehearsal.held_small, rehearsal.held) == (small.nbytes, small.nbytes + large.nbytes)
        del small, large
    assert (rehearsal.peak_small, rehearsal.peak, rehearsal.held) == (400, 840, 0)


def test_autocast_and_autograd_are_the_real_ones() -> None:
    def work(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = F.linear(x, weight)
        return y, torch.autograd.grad(y.float().square().sum(), weight)[0]

    real = work(torch.randn(3, 4), torch.randn(5, 4, requires_grad=True))
    with Rehearsal(CPU):
        hollow = work(torch.randn(3, 4), torch.randn(5, 4).requires_grad_())
    for one, other in zip(real, hollow, strict=True):
        assert (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)


@pytest.mark.parametrize("kernel", ["sdpa", "dense"])
def test_what_a_forward_pass_keeps_is_what_autograd_saves(kernel: str) -> None:
    config = ModelConfig(vocab_size=64, d_model=32, n_layers=2, attention={"n_heads": 2, "kernel": kernel})
    saved: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model, tokens = Transformer(config), torch.randint(0, 64, (2, 48))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logits = model(tokens).logits
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = sum(size for place, size in saved.items() if place not in own)

    rehearsal = Rehearsal(CPU)
    hollow = ghost(config)
    rehearsal.inhabit(hollow)
    held = rehearsal.held
    with rehearsal:
        out = hollow(torch.zeros(2, 48, dtype=torch.int64)).logits
        gc.collect()
        assert out is not None and logits is not None
        # What is held besides: the output, and the few small tensors that layers share.
        assert rehearsal.held - held == pytest.approx(kept + logits.nbytes, rel=0.05)


def test_a_model_without_memory_gets_parameters_and_buffers() -> None:
    with torch.device("meta"):
        model = nn.BatchNorm1d(8)
    rehearsal = Rehearsal(CPU)
    rehearsal.inhabit(model)
    assert rehearsal.held == sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    assert all(parameter.requires_grad and parameter.device == CPU for parameter in model.parameters())
    with rehearsal:
        assert model(torch.empty(4, 8)).requires_grad


def test_drawing_random_numbers_is_noticed_and_draws_none() -> None:
    before = torch.get_rng_state()
    for work, draws in ((lambda x: x.relu(), False), (lambda x: F.dropout(x, 0.5), True)):
        rehearsal = Rehearsal(CPU)
        with rehearsal:
            work(torch.zeros(4))
        assert rehearsal.draws == draws
    assert torch.equal(torch.get_rng_state(), before)


def test_numbers_cannot_be_looked_at() -> None:
    with Rehearsal(CPU), pytest.raises((RuntimeError, NotImplementedError)):
        bool(torch.zeros(()) > 0)
