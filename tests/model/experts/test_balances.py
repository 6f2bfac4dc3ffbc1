"""Balances against their definitions."""

import math

import pytest
import torch
from torch import Tensor

from sublayer.model import Layout, Transformer
from sublayer.model.experts.balance.importance import ImportanceConfig
from sublayer.model.experts.balance.load import LoadConfig
from sublayer.model.experts.balance.loss_free import LossFreeConfig
from sublayer.model.experts.balance.smooth_load import SmoothLoadConfig
from sublayer.model.experts.balance.z_loss import ZLossConfig
from sublayer.model.experts.routing import Noise, Places, Routing
from tests.model.experts.models import model, router, tokens


def places(n_rows: int, length: int, valid: Tensor | None = None) -> Places:
    return Places((n_rows, length), Layout(valid_BT=valid).resolved(length, torch.device("cpu")))


def routing_of(logits_NE: Tensor, top_k: int, std: float | None = None, noise: Tensor | None = None) -> Routing:
    probability_NE = logits_NE.softmax(-1)
    expert_NK = logits_NE.topk(top_k).indices
    weight_NK = logits_NE.gather(1, expert_NK).softmax(-1)
    told = None if std is None else Noise(logits_NE if noise is None else noise, torch.full_like(logits_NE, std))
    return Routing.by_token(expert_NK, weight_NK, logits_NE=logits_NE, probability_NE=probability_NE, noise=told)


def loss_of(balance: object, routing: Routing, at: Places, n_experts: int) -> Tensor:
    n_tokens = at.shape[0] * at.shape[1] if at.valid_N is None else int(at.valid_N.sum())
    load_E = routing.load_E(n_experts, at.valid_N)
    return balance.loss(balance.sums(routing, at, n_experts), load_E, torch.tensor(n_tokens))  # type: ignore[attr-defined,no-any-return]


def cyclic(n_tokens: int, n_experts: int, top_k: int, height: float) -> Tensor:
    """Logits that send tokens to experts by turns."""
    logits_NE = torch.zeros(n_tokens, n_experts)
    for n in range(n_tokens):
        for k in range(top_k):
            logits_NE[n, (n * top_k + k) % n_experts] = height
    return logits_NE


@pytest.mark.parametrize("scope", ["micro_batch", "global_batch", "sequence"])
@pytest.mark.parametrize(("n_experts", "top_k"), [(8, 1), (8, 2), (16, 4)])
def test_the_load_loss_is_1_when_balanced_whatever_k_is(scope: str, n_experts: int, top_k: int) -> None:
    balance = LoadConfig(weight=0.5, scope=scope)
    routing = routing_of(cyclic(2 * n_experts, n_experts, top_k, 3.0), top_k)
    assert float(loss_of(balance, routing, places(2, n_experts), n_experts)) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("scope", ["micro_batch", "sequence"])
def test_the_load_loss_is_the_number_of_experts_when_one_has_all(scope: str) -> None:
    logits_NE = torch.zeros(32, 8)
    logits_NE[:, 3] = 100.0
    loss = loss_of(LoadConfig(weight=1.0, scope=scope), routing_of(logits_NE, 1), places(2, 16), 8)
    assert float(loss) == pytest.approx(8.0)


def test_by_sequence_is_by_batch_at_batch_size_1_and_the_mean_over_rows_else() -> None:
    logits_NE = torch.randn(48, 8, generator=torch.Generator().manual_seed(0))
    by_row = LoadConfig(weight=1.0, scope="sequence")
    whole = LoadConfig(weight=1.0)
    one = routing_of(logits_NE, 2)
    torch.testing.assert_close(loss_of(by_row, one, places(1, 48), 8), loss_of(whole, one, places(1, 48), 8))
    rows = [loss_of(whole, routing_of(part, 2), places(1, 16), 8) for part in logits_NE.split(16)]
    torch.testing.assert_close(loss_of(by_row, one, places(3, 16), 8), torch.stack(rows).mean())


def test_the_load_loss_is_hugging_face_s_over_k() -> None:
    modeling = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    logits_NE = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    theirs = modeling.load_balancing_loss_func((logits_NE,), 8, 2)
    ours = loss_of(LoadConfig(weight=1.0), routing_of(logits_NE, 2), places(1, 64), 8)
    torch.testing.assert_close(ours * 2, theirs)


def test_the_z_loss_of_zero_logits_is_the_square_of_ln_e() -> None:
    loss = loss_of(ZLossConfig(weight=1.0), routing_of(torch.zeros(10, 16), 2), places(1, 10), 16)
    assert float(loss) == pytest.approx(math.log(16) ** 2)
    assert float(loss) == pytest.approx(7.687, abs=1e-3)


def test_importance_is_0_when_balanced_and_the_squared_variation_else() -> None:
    balance = ImportanceConfig(weight=1.0)
    even = routing_of(cyclic(16, 8, 2, 3.0), 2)
    assert float(loss_of(balance, even, places(1, 16), 8)) == pytest.approx(0.0, abs=1e-10)
    logits_NE = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    routing = routing_of(logits_NE, 2)
    total = torch.zeros(8).index_add(0, routing.expert_M, routing.weight_M)
    expected = total.var(correction=0) / total.mean() ** 2
    torch.testing.assert_close(loss_of(balance, routing, places(1, 32), 8), expected)


def test_smooth_load_is_the_chance_of_being_chosen_with_an_expert_s_own_noise_drawn_again() -> None:
    generator = torch.Generator().manual_seed(0)
    clean_NE = torch.randn(6, 5, generator=generator)
    noisy_NE = clean_NE + 0.7 * torch.randn(6, 5, generator=generator)
    routing = routing_of(noisy_NE, 2, std=0.7, noise=clean_NE)
    load_E = SmoothLoadConfig(weight=1.0).sums(routing, places(1, 6), 5)["load"]
    draws = clean_NE + 0.7 * torch.randn(20_000, 6, 5, generator=generator)
    expected_E = torch.zeros(5)
    for n in range(6):
        for e in range(5):
            others = torch.cat([noisy_NE[n, :e], noisy_NE[n, e + 1 :]])
            expected_E[e] += (draws[:, n, e] > others.topk(2).values[-1]).float().mean()
    torch.testing.assert_close(load_E, expected_E, atol=0.03, rtol=0)


def test_smooth_load_is_0_when_balanced() -> None:
    routing = routing_of(cyclic(16, 8, 2, 3.0), 2, std=1.0)
    assert float(loss_of(SmoothLoadConfig(), routing, places(1, 16), 8)) == pytest.approx(0.0, abs=1e-8)


def test_loss_free_raises_who_has_few_and_lowers_who_has_many() -> None:
    changed = LossFreeConfig(rate=0.25).changed(torch.tensor([0.0, 1.0, 0.0, 0.5]), torch.tensor([1, 5, 3, 3]))
    assert changed.tolist() == [0.25, 0.75, 0.0, 0.5]


def test_padding_counts_nowhere() -> None:
    valid = torch.ones(2, 12, dtype=torch.bool)
    valid[0, 8:] = False
    valid[1, :5] = False
    kinds = ["load", {"kind": "load", "scope": "sequence"}, "importance", "smooth_load", "z_loss"]
    transformer = model(router="noisy_top_k", balance=kinds, n_layers=1)
    x = tokens(2, 12)
    losses, counts = [], []
    for filler in (0, 7):
        torch.manual_seed(0)
        out = transformer(x.masked_fill(~valid, filler), Layout(valid_BT=valid), targets=x.masked_fill(~valid, -100))
        losses.append(out.losses)
        counts.append(out.report.counts)
    for name, value in losses[0].items():
        torch.testing.assert_close(value, losses[1][name], msg=name)
    for name, value in counts[0].items():
        torch.testing.assert_close(value, counts[1][name], msg=name)
    assert int(counts[0]["layers.0.feed_forward.tokens"]) == 15
    assert int(counts[0]["layers.0.feed_forward.load"].sum()) == 30


# In a model


def test_the_load_loss_is_there_by_default_in_training() -> None:
    transformer = model()
    x = tokens(2, 16)
    out = transformer(x, targets=x)
    assert set(out.losses) == {"cross_entropy", "layers.0.feed_forward.load", "layers.1.feed_forward.load"}
    torch.testing.assert_close(out.loss, sum(out.losses.values()))
    for layer in range(2):  # around 0.01 at the beginning, as experts are chosen nearly evenly
        assert 0.0095 < float(out.losses[f"layers.{layer}.feed_forward.load"]) < 0.02
    (gradient,) = torch.autograd.grad(out.losses["layers.1.feed_forward.load"], [router(transformer, 1).weight])
    assert (gradient != 0).any()
    assert set(transformer.eval()(x, targets=x).losses) == {"cross_entropy"}


def test_each_layer_is_balanced_by_itself() -> None:
    """Imbalances of two layers that would cancel when pooled do not."""
    transformer = model(top_k=1, n_experts=2, balance={"kind": "load", "weight": 1.0}, router={"bias": True})
    for layer, expert in ((0, 0), (1, 1)):
        bias = router(transformer, layer).get_parameter("bias")
        torch.nn.init.zeros_(bias)
        bias.data[expert] = 50.0
    x = tokens(2, 16)
    out = transformer(x, targets=x)
    for layer in range(2):
        assert float(out.losses[f"layers.{layer}.feed_forward.load"]) == pytest.approx(2.0, abs=1e-4)


def test_losses_of_several_passes_together_are_those_of_one_with_all_rows() -> None:
    kinds = ["load", {"kind": "load", "scope": "sequence"}, {"kind": "load", "scope": "global_batch"}, "importance"]
    transformer = model(balance=[*kinds, "z_loss"]).double()
    x = tokens(6, 16)
    whole = transformer(x, targets=x)
    parts = [transformer(part, targets=part).report for part in x.split([1, 3, 2])]
    together = transformer.auxiliary(parts[0] + parts[1] + parts[2])
    for name, loss in together.items():
        torch.testing.assert_close(loss, whole.losses[name], msg=name)
    assert set(together) == set(whole.losses) - {"cross_entropy"}
    of_all = transformer.auxiliary(whole.report, "global_batch")
    assert set(of_all) == {f"layers.{layer}.feed_forward.global_load" for layer in range(2)}


def test_loss_free_balances_a_model_that_does_not_learn() -> None:
    """Only biases change, and the load evens out."""
    transformer = model(
        n_experts=8, top_k=2, balance={"kind": "loss_free", "rate": 0.01}, router={"scoring": "sigmoid"}
    )
    x = tokens(16, 32)

    def violation(transformer: Transformer) -> float:
        with torch.no_grad():
            counts = transformer(x, targets=x).report.counts
        transformer.adjust(counts)
        load_E = counts["layers.0.feed_forward.load"].double()
        return float((load_E.max() - load_E.mean()) / load_E.mean())

    before = violation(transformer)
    for _ in range(150):
        after = violation(transformer)
    assert after < before / 3
    assert after < 0.2
    assert transformer(x, targets=x).losses.keys() == {"cross_entropy"}
