"""The chunked cross-entropy equals the plain one, forward and backward."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sublayer.model import ModelConfig, Transformer, loss
from sublayer.model.loss import IGNORED, cross_entropy, reference_cross_entropy


def problem(n: int, width: int, vocab: int, ignored: float, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(n * 100 + vocab)
    hidden = torch.randn(n, width, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(vocab, width, generator=generator, dtype=dtype).requires_grad_()
    targets = torch.randint(0, vocab, (n,), generator=generator)
    targets[torch.rand(n, generator=generator) < ignored] = IGNORED
    return hidden, weight, targets


@settings(max_examples=60)
@given(
    n=st.integers(1, 9),
    vocab=st.integers(1, 12),
    rows_a_chunk=st.integers(1, 10),
    ignored=st.sampled_from([0.0, 0.3, 1.0]),
    factor=st.sampled_from([1.0, -2.5, 0.0]),
    biased=st.booleans(),
    soft_cap=st.sampled_from([None, 1.5, 30.0]),
)
def test_it_equals_the_reference_in_any_number_of_chunks(
    n: int, vocab: int, rows_a_chunk: int, ignored: float, factor: float, biased: bool, soft_cap: float | None
) -> None:
    hidden, weight, targets = problem(n, 5, vocab, ignored)
    bias = torch.linspace(-1, 2, vocab, dtype=torch.float64).requires_grad_() if biased else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "CHUNK_BYTES", 4 * vocab * rows_a_chunk)
        actual = cross_entropy(hidden, weight, targets, bias, soft_cap)
    expected = reference_cross_entropy(hidden, weight, targets, bias, soft_cap)
    torch.testing.assert_close(actual, expected)
    asked = (hidden, weight) if bias is None else (hidden, weight, bias)
    for one, other in zip(
        torch.autograd.grad(factor * actual, asked), torch.autograd.grad(factor * expected, asked), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_by_hand() -> None:
    """Logits (0, ln 3) and (ln 4, 0): the second of (1/4, 3/4), the second of (4/5, 1/5), and one that is ignored."""
    hidden = torch.tensor([[0.0, math.log(3)], [math.log(4), 0.0], [9.0, 9.0]])
    value = cross_entropy(hidden, torch.eye(2), torch.tensor([1, 1, IGNORED]))
    assert value.item() == pytest.approx((math.log(4 / 3) + math.log(5)) / 2)


def test_gradcheck() -> None:
    hidden, weight, targets = problem(5, 3, 7, 0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "CHUNK_BYTES", 4 * 7 * 2)
        assert torch.autograd.gradcheck(lambda h, w: cross_entropy(h, w, targets), (hidden, weight))


def test_with_every_target_ignored_it_is_zero_and_so_are_its_gradients() -> None:
    hidden, weight, targets = problem(4, 3, 5, 1.0)
    value = cross_entropy(hidden, weight, targets)
    value.backward()
    assert value.item() == 0
    assert (hidden.grad == 0).all()
    assert (weight.grad == 0).all()


@pytest.mark.parametrize("frozen", ["hidden", "weight", "neither"])
def test_only_the_gradients_that_are_asked_for_come(frozen: str) -> None:
    hidden, weight, targets = problem(4, 3, 5, 0.0)
    hidden.requires_grad_(frozen != "hidden")
    weight.requires_grad_(frozen != "weight")
    cross_entropy(hidden, weight, targets).backward()
    expected = torch.autograd.grad(
        reference_cross_entropy(hidden, weight, targets), [x for x in (hidden, weight) if x.requires_grad]
    )
    actual = [x.grad for x in (hidden, weight) if x.requires_grad]
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_large_logits_do_not_overflow() -> None:
    hidden = torch.tensor([[1000.0, -1000.0]], requires_grad=True)
    value = cross_entropy(hidden, torch.eye(2), torch.tensor([1]))
    value.backward()
    assert value.item() == pytest.approx(2000)
    assert hidden.grad.tolist() == [[1.0, -1.0]]


def test_under_autocast_the_softmax_is_still_in_float32() -> None:
    hidden, weight, targets = problem(64, 32, 50, 0.2, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        value = cross_entropy(hidden, weight, targets)
    expected = reference_cross_entropy(hidden, weight, targets)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=0.01)
    actual = torch.autograd.grad(value, (hidden, weight))
    for one, other in zip(actual, torch.autograd.grad(expected, (hidden, weight)), strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 0.02 * other.norm()


class Products(TorchDispatchMode):
    """Counts matrix products."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func._overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm)
        return func(*args, **(kwargs or {}))


def test_without_gradients_there_is_one_product_with_the_vocabulary_and_not_three() -> None:
    hidden, weight, targets = problem(4, 3, 5, 0.0)
    with Products() as training:
        cross_entropy(hidden, weight, targets)
    with torch.no_grad(), Products() as evaluation:
        cross_entropy(hidden, weight, targets)
    assert (training.count, evaluation.count) == (3, 1)


def test_a_model_with_targets_returns_the_loss_of_its_logits_and_keeps_no_logits() -> None:
    model = Transformer(ModelConfig(vocab_size=7, d_model=8, n_layers=1, attention={"n_heads": 2}))
    tokens, targets = torch.randint(0, 7, (2, 5)), torch.randint(0, 7, (2, 5))
    targets[0, 3:] = IGNORED
    out = model(tokens, targets=targets)
    logits = model(tokens).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    assert out.logits is None
    assert set(out.losses) == {"cross_entropy"}
    torch.testing.assert_close(out.loss, expected)
    torch.testing.assert_close(model(tokens, targets=targets, want=["logits"]).logits, logits)


def test_gradients_of_many_chunks_are_summed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 as near the exact ones as those of all logits at once."""
    n, vocab = 2048, 300
    monkeypatch.setattr(loss, "CHUNK_BYTES", 4 * vocab * 8)
    hidden, weight, targets = problem(n, 5, vocab, 0.0)
    bias = torch.zeros(vocab, dtype=torch.float64)
    exact = reference_cross_entropy(hidden, weight, targets, bias.requires_grad_())
    wanted = torch.autograd.grad(exact, (hidden, weight, bias))

    def errors(function: Any) -> list[float]:
        inputs = [each.detach().bfloat16().requires_grad_() for each in (hidden, weight, bias)]
        value = function(inputs[0], inputs[1], targets, inputs[2])
        found = torch.autograd.grad(value, inputs)
        assert all(each.dtype == torch.bfloat16 for each in found)
        return [float((f.double() - w).norm() / w.norm()) for f, w in zip(found, wanted, strict=True)]

    for chunked, whole in zip(errors(cross_entropy), errors(reference_cross_entropy), strict=True):
        assert chunked < 1.5 * whole + 1e-3
