"""Experts in one operation beside the same in several."""

import threading

import pytest
import torch
from torch import Tensor

from sublayer.model.activation import ACTIVATIONS, DERIVATIVES
from sublayer.model.experts.bank import Bank
from sublayer.model.experts.dispatch import Order, dispatched
from sublayer.model.experts.routing import Routing
from sublayer.model.feed_forward.dense import DenseConfig
from sublayer.model.feed_forward.gated import GatedConfig
from sublayer.model.part import StackShape
from sublayer.training.rehearsal import Hollow, Rehearsal

N, D, E = 150, 24, 6
SHAPE = StackShape(stack="decoder", d_model=D, n_layers=1, max_length=N)
GATED = GatedConfig(d_ff=40)
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}


class Fusing(Bank):
    """In every dtype, since errors show in wide ones."""

    def fuses(self, x_ND: Tensor) -> bool:
        return True


def bank_of(config: DenseConfig | GatedConfig = GATED, dtype: torch.dtype = torch.float32) -> Bank:
    bank = Fusing(config, SHAPE, E)
    generator = torch.Generator().manual_seed(0)
    for parameter in bank.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return bank.to(dtype).train()


def case(top_k: int | None = 2, dtype: torch.dtype = torch.float32, n: int = N) -> tuple[Tensor, Routing]:
    """Tokens and assignments, none of them to the last expert but one."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, D, generator=generator).to(dtype).requires_grad_()
    wide = torch.promote_types(dtype, torch.float32)
    score = torch.rand(n, E, generator=generator)
    score[:, -2] = 0
    if top_k is None:
        token, expert = (score > 0.7).nonzero(as_tuple=True)
        weight = torch.rand(len(token), generator=generator).to(wide).requires_grad_()
        return x, Routing(token, expert, weight)
    weight = torch.rand(n, top_k, generator=generator).to(wide).requires_grad_()
    return x, Routing.by_token(score.topk(top_k).indices, weight)


def results(bank: Bank, x: Tensor, routing: Routing, in_one: bool = True) -> list[Tensor]:
    """Outputs and gradients, in one operation or in several."""
    y = dispatched(x, routing, E, bank if in_one else lambda rows, count: bank(rows, count))
    towards = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y.dtype)
    return [y, *torch.autograd.grad(y, (x, routing.weight_M, *bank.parameters()), towards)]


def assert_close(actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        most = other.abs().max().item() if other.numel() else 0.0
        torch.testing.assert_close(one, other, rtol=0.0, atol=tolerance * most)


@pytest.mark.parametrize("top_k", [1, 2, 5, None])
@pytest.mark.parametrize("config", [GATED, DenseConfig(d_ff=40)], ids=["gated", "dense"])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_it_is_the_same_in_several_operations(
    dtype: torch.dtype, config: DenseConfig | GatedConfig, top_k: int | None
) -> None:
    bank, given = bank_of(config, dtype), case(top_k, dtype)
    assert_close(results(bank, *given), results(bank, *given, in_one=False), TOLERANCES[dtype])


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", [GATED, DenseConfig(d_ff=40)], ids=["gated", "dense"])
def test_autocast_is_followed(config: DenseConfig | GatedConfig, x_dtype: torch.dtype) -> None:
    bank = bank_of(config)
    x, routing = case()
    x = x.detach().to(x_dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        actual, expected = results(bank, x, routing), results(bank, x, routing, in_one=False)
    assert actual[0].dtype == torch.bfloat16 and actual[3].dtype == torch.float32
    assert_close(actual, expected, 2e-2)
    # Of what is rounded, it rounds about as much as the operations that it stands for.
    exact = results(bank, x.detach().float().requires_grad_(), routing)
    for one, other, true in zip(actual, expected, exact, strict=True):
        assert (one - true).norm() <= 1.25 * (other - true).norm()


@pytest.mark.parametrize("gated", [True, False], ids=["gated", "dense"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation(name: str, gated: bool) -> None:
    config = GatedConfig if gated else DenseConfig
    bank, given = bank_of(config(d_ff=40, activation=name), torch.float64), case(dtype=torch.float64)
    assert_close(results(bank, *given), results(bank, *given, in_one=False), 1e-12)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivatives_are_those_of_autograd(name: str) -> None:
    x = torch.linspace(-30, 30, 601, dtype=torch.float64).requires_grad_()  # with 0 and where softplus is x
    towards = torch.randn(601, dtype=torch.float64)
    (expected,) = torch.autograd.grad(ACTIVATIONS[name](x), x, towards)  # type: ignore[index]
    torch.testing.assert_close(DERIVATIVES[name](towards, x.detach()), expected)  # type: ignore[index]


def test_an_expert_without_tokens_gets_gradients_of_zero() -> None:
    for of_matrix in results(bank_of(), *case())[3:]:
        assert not of_matrix[-2].any() and all(of_matrix[expert].any() for expert in (0, 1, 2, 3, 5))


@pytest.mark.parametrize("top_k", [2, None])
def test_no_token_and_no_assignment(top_k: int | None) -> None:
    none = torch.zeros(0, dtype=torch.int64)
    x = torch.randn(3 if top_k is None else 0, D, requires_grad=True)
    found = results(bank_of(), x, Routing(none, none, torch.zeros(0, requires_grad=True), top_k))
    assert found[0].shape == x.shape and not any(each.any() for each in found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_that_are_none_stay_with_their_token_and_experts(dtype: torch.dtype) -> None:
    bank, (x, routing) = bank_of(dtype=dtype), case(top_k=1, dtype=dtype)
    token = int((routing.expert_M == 3).nonzero()[0])
    x.data[token] = torch.nan
    y, of_x, _, *of_matrices = results(bank, x, routing)
    others = torch.arange(N) != token
    assert y[token].isnan().all() and y[others].isfinite().all() and of_x[others].isfinite().all()
    for of_matrix in of_matrices:
        assert [bool(each.isfinite().all()) for each in of_matrix] == [True, True, True, False, True, True]


def test_twice_the_same_is_bit_for_bit_the_same_in_several_threads_too() -> None:
    bank, given = bank_of(dtype=torch.bfloat16), [case(dtype=torch.bfloat16, n=n) for n in (150, 40, 90)]
    expected = [results(bank, *each) for each in given]
    found: dict[int, list[list[Tensor]]] = {number: [] for number in range(len(given))}

    def run(number: int) -> None:
        for _ in range(20):
            found[number].append(results(bank, *given[number]))

    threads = [threading.Thread(target=run, args=(number,)) for number in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, runs in found.items():
        assert len(runs) == 20
        assert all(torch.equal(*pair) for run in runs for pair in zip(run, expected[number], strict=True))


def test_what_it_does_not_do_is_left_to_the_several() -> None:
    def bank(dtype: torch.dtype = torch.bfloat16, d_ff: int = D, **options: object) -> Bank:
        return Bank(GatedConfig(d_ff=d_ff, **options), SHAPE, E).to(dtype)  # type: ignore[arg-type]

    x, _ = case(dtype=torch.bfloat16)
    assert bank().fuses(x) and bank(dropout=0.1).eval().fuses(x)
    assert not bank(bias=True).fuses(x)
    assert not bank(dropout=0.1).fuses(x)
    assert not bank().requires_grad_(False).fuses(x)
    assert not bank().fuses(x.detach().to("meta"))
    assert not bank(torch.float32).fuses(x)
    assert not bank(d_ff=D + 1).fuses(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert bank(torch.float32).fuses(x)
    with torch.no_grad():
        assert not bank().fuses(x)


@pytest.mark.parametrize("config", [GATED, DenseConfig(d_ff=40)], ids=["gated", "dense"])
def test_the_operations_are_registered_as_torch_wants_them(config: DenseConfig | GatedConfig) -> None:
    bank, (x, routing) = bank_of(config), case()
    order = Order.of(routing.token_M, routing.expert_M, N, E, routing.top_k)
    places = (order.token_M, order.place_M, order.begin_N, order.count_E)
    weight = routing.weight_M.detach().requires_grad_()
    tensors = (x, weight, bank.gate, bank.up, bank.down, bank.activation_name, *places)
    torch.library.opcheck(torch.ops.sublayer.fused_experts.default, tensors)
    apart = tuple(each.detach() if isinstance(each, Tensor) else each for each in tensors)
    y, inner = torch.ops.sublayer.fused_experts(*apart)
    torch.library.opcheck(torch.ops.sublayer.fused_experts_backward.default, (torch.randn_like(y), inner, *apart))


def test_it_compiles_whole() -> None:
    bank = bank_of()
    x, routing = case()

    def run(x: Tensor, weight: Tensor) -> Tensor:
        return dispatched(x, Routing(routing.token_M, routing.expert_M, weight, 2), E, bank)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    weight = routing.weight_M.detach().requires_grad_()
    found = [
        [y, *torch.autograd.grad(y.square().sum(), (x, weight, *bank.parameters()))]
        for y in (run(x, weight), compiled(x, weight))
    ]
    assert_close(found[1], found[0], 1e-6)


def test_sizes_are_known_without_numbers() -> None:
    with Rehearsal(torch.device("cpu")):
        bank = Bank(GATED, SHAPE, E).train()
        x, weight = torch.empty(N, D, requires_grad=True), torch.empty(N, 2, requires_grad=True)
        routing = Routing.by_token(torch.zeros(N, 2, dtype=torch.int64), weight)
        with torch.autocast("cpu", torch.bfloat16):
            y = dispatched(x, routing, E, bank)
        y.sum().backward()
    assert isinstance(y, Hollow) and y.dtype == torch.bfloat16
    assert bank.gate is not None and bank.gate.grad is not None and bank.gate.grad.dtype == torch.float32
