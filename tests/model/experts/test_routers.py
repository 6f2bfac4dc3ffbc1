"""Routers against their definitions."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sublayer.model import Layout, Transformer
from sublayer.model.experts import Mixture
from sublayer.model.experts.router import Router
from sublayer.model.experts.router.noisy_top_k import NoisyTopK
from sublayer.model.experts.router.top_k import TopK
from sublayer.model.experts.routing import Places, Routing
from tests.model.experts.models import config, mixture, model, router, tokens


def places(n_rows: int, length: int, ids: Tensor | None = None, **layout: Any) -> Places:
    return Places((n_rows, length), Layout(**layout).resolved(length, torch.device("cpu")), ids)


def routed(module: Router, n_tokens: int = 64, seed: int = 0) -> tuple[Tensor, Routing]:
    x_ND = torch.randn(n_tokens, 32, generator=torch.Generator().manual_seed(seed))
    return x_ND, module.route(x_ND, places(1, n_tokens))


def by_token(routing: Routing) -> tuple[Tensor, Tensor]:
    assert routing.top_k is not None
    return routing.expert_M.view(-1, routing.top_k), routing.weight_M.view(-1, routing.top_k)


@pytest.mark.parametrize("top_k", [1, 2, 3, 8])
@pytest.mark.parametrize("scoring", ["softmax", "sigmoid", "softmax_after"])
@pytest.mark.parametrize("renormalise", [None, False, True])
def test_the_k_highest_scores_are_chosen_and_weigh_what_the_papers_say(
    scoring: str, renormalise: bool | None, top_k: int
) -> None:
    if (scoring == "softmax_after" and renormalise is not None) or (top_k == 1 and (renormalise or scoring[7:])):
        pytest.skip("refused, see test_refusals.py")
    options = {} if renormalise is None else {"renormalise": renormalise}
    module = router(model(top_k=top_k, router={"scoring": scoring, "scale": 2.5, **options}))
    assert isinstance(module, TopK)
    x_ND, routing = routed(module)
    expert_NK, weight_NK = by_token(routing)
    logits_NE = x_ND @ module.weight.T
    for n in range(len(x_ND)):
        order = sorted(range(8), key=lambda e: -float(logits_NE[n, e]))[:top_k]
        assert expert_NK[n].tolist() == order
        chosen = logits_NE[n, order]
        match scoring:
            case "softmax":
                weight = logits_NE[n].softmax(0)[order]
            case "sigmoid":
                weight = chosen.sigmoid()
            case _:
                weight = chosen.softmax(0)
        if scoring != "softmax_after" and (top_k > 1 if renormalise is None else renormalise):
            weight = weight / weight.sum()
        torch.testing.assert_close(weight_NK[n], 2.5 * weight)


def test_softmax_before_and_renormalised_is_softmax_after() -> None:
    before, after = (router(model(router={"scoring": scoring})) for scoring in ("softmax", "softmax_after"))
    torch.testing.assert_close(routed(before)[1].weight_M, routed(after)[1].weight_M)


# Shazeer et al. 2017


def test_noisy_top_k_has_k_weights_that_add_up_to_1_and_draws_anew() -> None:
    module = router(model(router="noisy_top_k", n_experts=8, top_k=3))
    _, one = routed(module)
    _, another = routed(module)
    _, weight_NK = by_token(one)
    torch.testing.assert_close(weight_NK.sum(1), torch.ones(64))
    assert (weight_NK > 0).all()
    assert (by_token(one)[0].sort(1).values.diff(dim=1) > 0).all()  # three different ones
    assert not torch.equal(one.expert_M, another.expert_M)


def test_noise_is_as_strong_as_the_learned_matrix_says() -> None:
    module = router(model(router="noisy_top_k"))
    assert isinstance(module, NoisyTopK)
    torch.nn.init.normal_(module.noise_weight, std=0.2)
    x_ND = torch.randn(16, 32)
    std_NE = F.softplus(x_ND @ module.noise_weight.T)
    draws = torch.stack([module.perturbed(x_ND @ module.weight.T, x_ND)[0] for _ in range(4000)])
    torch.testing.assert_close(
        (draws.mean(0) - x_ND @ module.weight.T) / std_NE, torch.zeros_like(std_NE), atol=0.1, rtol=0
    )
    torch.testing.assert_close(draws.std(0), std_NE, rtol=0.1, atol=0)


def test_noise_is_for_training_only_and_its_matrix_learns() -> None:
    transformer = model(router="noisy_top_k")
    x = tokens(2, 16)
    out = transformer(x, targets=x)
    out.loss.backward()
    gradient = transformer.get_parameter("blocks.0.feed_forward.router.noise_weight").grad
    assert gradient is not None
    assert (gradient != 0).any()
    transformer.eval()
    assert torch.equal(transformer(x).logits, transformer(x).logits)


# DeepSeek-V3, section 2.1.2


def test_an_expert_outside_the_kept_groups_is_never_chosen() -> None:
    options = {"scoring": "sigmoid", "groups": 4, "kept_groups": 2}
    module = router(model(n_experts=16, top_k=4, router=options, balance="loss_free"))
    assert isinstance(module, TopK)
    assert module.balance_bias is not None
    module.balance_bias.normal_(std=0.3)
    x_ND, routing = routed(module, 256)
    expert_NK, weight_NK = by_token(routing)
    score_NE = (x_ND @ module.weight.T).sigmoid()
    choice_NGS = (score_NE + module.balance_bias).view(-1, 4, 4)
    best_two_NG = choice_NGS.sort(-1).values[..., -2:].sum(-1)
    kept_NG = best_two_NG >= best_two_NG.sort(-1).values[:, -2:-1]
    free_NK = (score_NE + module.balance_bias).topk(4).indices
    for n in range(256):
        assert {int(e) // 4 for e in expert_NK[n]} <= {g for g in range(4) if kept_NG[n, g]}
    assert (free_NK.sort(1).values != expert_NK.sort(1).values).any()  # the groups decide something
    # Chosen by s + b, weighted by s.
    chosen_NK = score_NE.gather(1, expert_NK)
    torch.testing.assert_close(weight_NK, chosen_NK / chosen_NK.sum(1, keepdim=True))


def test_a_balance_bias_decides_who_is_chosen_and_gets_no_gradient() -> None:
    transformer = model(balance="loss_free", n_experts=4, top_k=1, router={"renormalise": False})
    module = router(transformer)
    assert module.balance_bias is not None
    module.balance_bias[2] = 10.0
    _x_ND, routing = routed(module)
    assert set(routing.expert_M.tolist()) == {2}
    assert (routing.weight_M < 1).all()  # the probability, without the bias
    assert "balance_bias" not in dict(module.named_parameters())
    assert not module.balance_bias.requires_grad


# Switch, section 2.3


def test_jitter_multiplies_what_the_router_reads_in_training_only() -> None:
    module = router(model(router={"jitter": 0.2}))
    x_ND, first = routed(module)
    assert first.logits_NE is not None
    assert isinstance(module, TopK)
    clean_NE = x_ND @ module.weight.T
    assert not torch.allclose(first.logits_NE, clean_NE)
    bound_NE = 0.2 * (x_ND.abs() @ module.weight.abs().T)
    assert ((first.logits_NE - clean_NE).abs() <= bound_NE + 1e-5).all()
    module.eval()
    torch.testing.assert_close(routed(module)[1].logits_NE, clean_NE)


# Roller et al. 2021


def test_a_token_s_id_says_its_experts_and_each_layer_has_another_table() -> None:
    transformer = model(router="hash", n_experts=8, top_k=2).eval()
    ids = torch.arange(50).repeat(2, 1)
    told = transformer(ids, want=["routing"]).report.routing
    chosen = [told[f"layers.{layer}.feed_forward.chosen"] for layer in range(2)]
    assert torch.equal(chosen[0][0], chosen[0][1])
    assert (chosen[0].sum(-1) == 2).all()
    assert not torch.equal(chosen[0], chosen[1])
    again = model(router={"kind": "hash", "seed": 1}, n_experts=8).eval()(ids, want=["routing"]).report.routing
    assert not torch.equal(again["layers.0.feed_forward.chosen"], chosen[0])


def test_a_hash_has_any_seed() -> None:
    options = {"kind": "hash", "seed": 10**30}
    assert model(router=options)(torch.arange(8)[None]).logits.isfinite().all()


def test_encoder_and_decoder_have_tables_of_their_own() -> None:
    transformer = model("encoder_decoder", router="hash", n_experts=8)
    ids = torch.arange(50)[None]
    boxes = [box for _, box in transformer.boxes() if isinstance(box, Mixture)]
    chosen = [box.router.route(torch.zeros(50, 32), places(1, 50, ids)).expert_M for box in boxes]
    assert len(chosen) == 4
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(chosen, 2))


def test_hashes_spread_tokens_evenly() -> None:
    module = router(model(router="hash", n_experts=16, top_k=2))
    ids = torch.arange(32_000)[None]
    load_E = module.route(torch.zeros(32_000, 32), places(1, 32_000, ids)).load_E(16, None)
    expected = 2 * 32_000 / 16
    assert ((load_E - expected).abs() < 5 * expected**0.5).all()


# Zhou et al. 2022


@pytest.mark.parametrize("top_k", [1, 2])
def test_each_expert_takes_its_highest_tokens_of_a_document(top_k: int) -> None:
    transformer = model("encoder", router="expert_choice", n_experts=4, top_k=top_k)
    module = router(transformer)
    x_ND = torch.randn(20, 32)
    document = torch.tensor([[0] * 7 + [1] * 3, [0] * 10])
    valid = torch.ones(2, 10, dtype=torch.bool)
    valid[1, 8:] = False
    routing = module.route(x_ND, places(2, 10, document_BT=document, valid_BT=valid))
    score_NE = (x_ND @ module.weight.T).softmax(-1)
    expected = set()
    for first, length in ((0, 7), (7, 3), (10, 8)):
        taken = -(-top_k * length // 4)
        for e in range(4):
            best = score_NE[first : first + length, e].topk(taken).indices
            expected |= {(first + int(n), e) for n in best}
    assert set(zip(routing.token_M.tolist(), routing.expert_M.tolist(), strict=True)) == expected
    torch.testing.assert_close(routing.weight_M, score_NE[routing.token_M, routing.expert_M])


def test_expert_choice_in_plain_rows_is_the_same_as_with_documents_told() -> None:
    module = router(model("encoder", router="expert_choice", n_experts=4))
    x_ND = torch.randn(24, 32)
    plain = module.route(x_ND, places(2, 12))
    told = module.route(x_ND, places(2, 12, document_BT=torch.zeros(2, 12, dtype=torch.int64)))
    pairs = [set(zip(r.token_M.tolist(), r.expert_M.tolist(), strict=True)) for r in (plain, told)]
    assert pairs[0] == pairs[1]


# Puigcerver et al. 2024


def test_soft_mixtures_by_the_equations() -> None:
    transformer = model("encoder", n_layers=1, router={"kind": "soft", "slots": 3}, n_experts=4)
    box = mixture(transformer)
    x_ND = torch.randn(10, 32)
    y_ND, _, _ = box.router.through(x_ND, places(1, 10), box.experts)
    phi_DS = F.normalize(box.router.weight, dim=-1).T
    logits_NS = F.normalize(x_ND, dim=-1) @ phi_DS
    slot_SD = logits_NS.softmax(0).T @ x_ND
    out_SD = torch.cat([box.experts(slot_SD[3 * e : 3 * e + 3], counts(e, 3)) for e in range(4)])
    torch.testing.assert_close(y_ND, logits_NS.softmax(1) @ out_SD)


def counts(expert: int, n_rows: int) -> Tensor:
    return torch.tensor([n_rows if e == expert else 0 for e in range(4)])


# Arithmetic


@pytest.mark.parametrize("kind", ["top_k", "noisy_top_k"])
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_routers_compute_in_float32_under_autocast(kind: str, compiled: bool) -> None:
    transformer = model(router=kind).eval()
    module = router(transformer)
    x_ND = torch.randn(64, 32).bfloat16()
    run = torch.compile(module.route) if compiled else module.route
    with torch.autocast("cpu", torch.bfloat16):
        routing = run(x_ND, places(1, 64))
    assert routing.logits_NE is not None
    assert routing.logits_NE.dtype == routing.weight_M.dtype == torch.float32
    torch.testing.assert_close(routing.logits_NE, x_ND.float() @ module.weight.T)


def test_a_model_in_bfloat16_keeps_its_routers_in_float32() -> None:
    transformer = model(router="noisy_top_k", balance="loss_free").bfloat16()
    dtypes = {name: tensor.dtype for name, tensor in transformer.state_dict().items()}
    for name, dtype in dtypes.items():
        assert dtype == (torch.float32 if ".router." in name else torch.bfloat16), name
    before = router(model(router="noisy_top_k", balance="loss_free")).weight
    assert torch.equal(router(transformer).weight, before)
    transformer(tokens(1, 8))


@pytest.mark.parametrize("kind", ["top_k", "hash"])
def test_what_stands_beside_a_text_does_not_change_it(kind: str) -> None:
    transformer = model(router=kind).double().eval()
    x = tokens(4, 16)
    together = transformer(x).logits
    for row in range(4):
        torch.testing.assert_close(transformer(x[row : row + 1]).logits[0], together[row], rtol=1e-6, atol=1e-6)


def test_a_configured_router_survives_a_round_trip() -> None:
    tree = config(router={"kind": "noisy_top_k", "jitter": 0.1}, balance=["smooth_load", "z_loss"]).tree()
    again = Transformer(type(config()).parse(tree)).config
    assert again.tree() == tree
