"""The grouped product beside the loop over groups: values, gradients, dtypes, layouts, compiled and without numbers."""

import pytest
import torch
from torch import Tensor

from sublayer.model.experts.grouped import grouped_linear, looped_linear
from sublayer.training.rehearsal import Hollow, Rehearsal

COUNTS = [[5, 0, 33, 16, 1], [0, 0, 3], [100, 7, 64, 21], [1, 1, 1, 60], [0, 4, 0], [0, 0]]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def case(counts: list[int], dtype: torch.dtype, n_in: int = 24, n_out: int = 40, device: str = "cpu") -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(sum(counts), n_in, generator=generator).to(device, dtype)
    weight = torch.randn(len(counts), n_out, n_in, generator=generator).to(device, dtype)
    return [x.requires_grad_(), weight.requires_grad_(), torch.tensor(counts, device=device)]


def results(function: object, x: Tensor, weight: Tensor, count: Tensor) -> list[Tensor]:
    y = function(x, weight, count)  # type: ignore[operator]
    towards = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.device, y.dtype)
    return [y, *torch.autograd.grad(y, (x, weight), towards)]


TOLERANCES = {torch.bfloat16: 2e-2, torch.float16: 2e-3, torch.float32: 1e-5, torch.float64: 1e-12}


def assert_close(actual: list[Tensor], expected: list[Tensor]) -> None:
    tolerance = max(TOLERANCES[each.dtype] for each in expected)  # that of the products
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == other.dtype
        most = other.abs().max().item() if other.numel() else 0.0
        torch.testing.assert_close(one, other, rtol=0.0, atol=tolerance * most)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_the_loop_over_groups(dtype: torch.dtype, counts: list[int], device: str) -> None:
    given = case(counts, dtype, device=device)
    assert_close(results(grouped_linear, *given), results(looped_linear, *given))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("n_in", "n_out"), [(3, 5), (6, 16), (16, 7), (1, 1)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sizes_that_are_no_multiples_of_anything(dtype: torch.dtype, n_in: int, n_out: int, device: str) -> None:
    given = case([5, 0, 33, 2], dtype, n_in, n_out, device)
    assert_close(results(grouped_linear, *given), results(looped_linear, *given))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_groups_without_rows_get_gradients_of_zero(dtype: torch.dtype, device: str) -> None:
    x, weight, count = case([5, 0, 40, 0], dtype, device=device)
    grouped_linear(x, weight, count).sum().backward()  # an expanded gradient
    assert weight.grad is not None
    assert not weight.grad[[1, 3]].any()
    assert weight.grad[[0, 2]].all()


@pytest.mark.parametrize("device", DEVICES)
def test_any_layout_of_rows_and_matrices(device: str) -> None:
    x, weight, count = case([20, 0, 33, 11], torch.float32, device=device)
    expected = results(looped_linear, x, weight, count)
    turned = x.detach().T.contiguous().T.requires_grad_()
    apart = weight.detach().permute(1, 2, 0).contiguous().permute(2, 0, 1).requires_grad_()
    assert not apart.is_contiguous() and not turned.is_contiguous()
    assert_close(results(grouped_linear, turned, apart, count), expected)
    assert_close(results(grouped_linear, x, weight.detach().mT.contiguous().mT.requires_grad_(), count), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_a_gradient_is_made_only_where_one_is_wanted(device: str) -> None:
    x, weight, count = case([20, 0, 33], torch.float32, device=device)
    grouped_linear(x.detach(), weight, count).sum().backward()
    grouped_linear(x, weight.detach(), count).sum().backward()
    assert weight.grad is not None and x.grad is not None
    assert not grouped_linear(x.detach(), weight.detach(), count).requires_grad


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16])
def test_autocast_is_followed_as_by_a_linear_layer(x_dtype: torch.dtype, device: str) -> None:
    x, weight, count = case([20, 0, 33], torch.float32, device=device)
    x = x.detach().to(x_dtype).requires_grad_()
    with torch.autocast(device, torch.bfloat16):
        linear = torch.nn.functional.linear(x, weight[0])
        ours = results(grouped_linear, x, weight, count)
        reference = results(looped_linear, x, weight, count)
    assert ours[0].dtype == linear.dtype == torch.bfloat16
    assert [each.dtype for each in ours[1:]] == [x_dtype, torch.float32]
    assert_close(ours, reference)
    # Backward outside of autocast, as a training step does it, is the same.
    with torch.autocast(device, torch.bfloat16):
        y = grouped_linear(x, weight, count)
    y.sum().backward()
    assert weight.grad is not None and weight.grad.dtype == torch.float32


def test_autocast_leaves_float64_alone() -> None:
    given = case([20, 0, 33], torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(results(grouped_linear, *given), results(looped_linear, *given))


def test_without_autocast_the_wider_dtype_counts() -> None:
    x, weight, count = case([20, 0, 33], torch.float32)
    given = [x.detach().bfloat16().requires_grad_(), weight, count]
    y, of_x, of_weight = results(grouped_linear, *given)
    assert (y.dtype, of_x.dtype, of_weight.dtype) == (torch.float32, torch.bfloat16, torch.float32)
    torch.testing.assert_close(y, looped_linear(given[0].float(), weight, count))


def test_rows_do_not_depend_on_what_other_groups_have() -> None:
    x, weight, _ = case([40, 30], torch.bfloat16)
    together = grouped_linear(x, weight, torch.tensor([40, 30]))
    alone = grouped_linear(x[:40], weight[:1], torch.tensor([40]))
    torch.testing.assert_close(together[:40], alone, rtol=1e-2, atol=1e-2)
    x.data[40:] = torch.nan
    torch.testing.assert_close(grouped_linear(x, weight, torch.tensor([40, 30]))[:40], together[:40])


def test_rows_that_are_no_numbers_stay_in_their_group_backwards_too() -> None:
    x, weight, count = case([21, 30], torch.bfloat16)
    x.data[21:] = torch.nan
    grouped_linear(x, weight, count).sum().backward()
    assert weight.grad is not None and weight.grad[0].isfinite().all() and weight.grad[1].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_compiles_whole(dtype: torch.dtype) -> None:
    given = case([5, 0, 33, 16], dtype)
    compiled = torch.compile(grouped_linear, fullgraph=True, backend="aot_eager")
    assert_close(results(compiled, *given), results(grouped_linear, *given))


def test_the_operations_are_registered_as_torch_wants_them() -> None:
    given = case([5, 0, 33, 16], torch.float32)
    for arguments in (given, case([0, 0], torch.float32)):
        torch.library.opcheck(torch.ops.sublayer.grouped_linear.default, tuple(arguments))
    y = grouped_linear(*given).detach()
    torch.library.opcheck(torch.ops.sublayer.grouped_outer.default, (y, given[0].detach(), given[2], torch.float32))


def test_sizes_are_known_without_numbers() -> None:
    x, weight, count = (each.detach().to("meta") for each in case([5, 0, 33], torch.bfloat16))
    assert grouped_linear(x, weight, count).shape == (38, 40)
    with Rehearsal(torch.device("cpu")):
        x, weight = torch.empty(38, 24).requires_grad_(), torch.empty(3, 40, 24).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = grouped_linear(x, weight, torch.zeros(3, dtype=torch.int64))
        y.sum().backward()
    assert isinstance(y, Hollow) and y.dtype == torch.bfloat16
    assert weight.grad is not None and weight.grad.shape == weight.shape and weight.grad.dtype == torch.float32
