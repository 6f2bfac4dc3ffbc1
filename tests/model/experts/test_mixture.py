"""Experts, capacity, shared experts, and which layers have them."""

import pytest
import torch
from torch import Tensor

from sublayer.errors import ConfigError
from sublayer.model import Layout, Transformer
from sublayer.model.cost import cost
from sublayer.model.experts import Mixture
from sublayer.model.experts.capacity import CapacityConfig
from sublayer.model.experts.routing import Routing
from sublayer.model.feed_forward.gated import Gated
from tests.model.experts.models import config, mixture, model, tokens


def routed_outputs(transformer: Transformer, x: Tensor) -> Tensor:
    logits = transformer(x).logits
    assert logits is not None
    return logits


@pytest.mark.parametrize("expert", ["swiglu", "gelu", {"kind": "gated", "bias": True}, {"kind": "dense", "bias": True}])
def test_experts_are_feed_forwards_with_weights_of_their_own(expert: object) -> None:
    """Σ weight · expert(x), each expert a module of its own with the bank's weights."""
    transformer = model(n_layers=1, n_experts=4, top_k=2, expert=expert).double()
    box = mixture(transformer)
    for name, parameter in box.experts.named_parameters():
        if name.endswith("_bias"):
            torch.nn.init.normal_(parameter)
    single = box.config.expert.build(transformer.config.shape)
    assert single is not None
    single = single.double()
    x_BTD = torch.randn(2, 9, 32, dtype=torch.float64)
    from sublayer.model.layout import Span
    from sublayer.model.position.base import Position
    from sublayer.model.sublayer import Context

    layout = Layout().resolved(9, torch.device("cpu"))
    context = Context(layout, Span.within(layout, True), Position(), want=frozenset({"routing"}))
    y_BTD, told = box(x_BTD, context)
    expected = torch.zeros_like(y_BTD)
    for expert_number in range(4):
        state = {
            f"{name.removesuffix('_bias')}.{'bias' if name.endswith('_bias') else 'weight'}": parameter[expert_number]
            for name, parameter in box.experts.named_parameters()
        }
        single.load_state_dict(state)
        expected += told.routing["weight"][..., expert_number, None] * single(x_BTD, context)[0]
    torch.testing.assert_close(y_BTD, expected)


def test_with_all_experts_alike_and_weights_of_1_it_is_a_dense_layer() -> None:
    transformer = model(n_layers=1, n_experts=4, top_k=2, expert={"kind": "gated", "d_ff": 24}).double()
    box = mixture(transformer)
    for parameter in box.experts.parameters():
        parameter.data[:] = parameter.data[0]
    dense = Gated(box.config.expert, transformer.config.shape).double()
    dense.load_state_dict({f"{name}.weight": value[0] for name, value in box.experts.named_parameters()})
    x_BTD = torch.randn(2, 9, 32, dtype=torch.float64)
    y_ND, _, _ = box.router.through(x_BTD.flatten(0, 1), _places(2, 9), box.experts)
    torch.testing.assert_close(y_ND.view(2, 9, 32), dense(x_BTD, None)[0])


def _places(n_rows: int, length: int) -> object:
    from sublayer.model.experts.routing import Places

    return Places((n_rows, length), Layout().resolved(length, torch.device("cpu")))


def test_shared_experts_compute_every_token() -> None:
    shared = {"n_experts": 2, "gate": True}
    transformer = model(n_layers=1, n_experts=4, expert={"kind": "gated", "d_ff": 16}, shared=shared)
    box = mixture(transformer)
    sizes = {name: tuple(p.shape) for name, p in box.named_parameters() if name.startswith("shared")}
    assert sizes == {
        "shared.gate.weight": (32, 32),
        "shared.up.weight": (32, 32),
        "shared.down.weight": (32, 32),
        "shared_gate.weight": (1, 32),
    }
    with torch.no_grad():
        box.experts.down.zero_()  # the routed ones say nothing
    x_BTD = torch.randn(2, 5, 32)
    from sublayer.model.sublayer import Context

    context = Context(Layout().resolved(5, torch.device("cpu")), None, None)  # type: ignore[arg-type]
    y_BTD, _ = box(x_BTD, context)
    assert box.shared is not None and box.shared_gate is not None
    expected = box.shared(x_BTD, context)[0] * torch.sigmoid(box.shared_gate(x_BTD))
    torch.testing.assert_close(y_BTD, expected)


# Capacity (Fedus et al. 2022, equation 3)


@pytest.mark.parametrize("drop", ["last", "least_weight"])
def test_a_capacity_of_e_over_k_drops_nothing(drop: str) -> None:
    x = tokens(2, 16)
    free = model(n_experts=4, top_k=2)
    limited = model(n_experts=4, top_k=2, capacity={"factor": 2.0, "drop": drop})
    one, other = free(x, targets=x), limited(x, targets=x)
    torch.testing.assert_close(one.loss, other.loss)
    assert int(other.report.counts["layers.0.feed_forward.dropped"]) == 0


@pytest.mark.parametrize("drop", ["last", "least_weight"])
def test_an_expert_takes_no_more_than_its_capacity_and_the_rest_is_counted(drop: str) -> None:
    transformer = model(n_layers=1, n_experts=4, top_k=2, capacity={"factor": 0.5, "drop": drop})
    box = mixture(transformer)
    x_ND = torch.randn(40, 32)
    places = _places(2, 20)
    routing = box.router.route(x_ND, places)  # type: ignore[arg-type]
    capacity = box.router.team.capacity
    assert capacity is not None
    kept, dropped = capacity.kept(routing, 4, None, training=True)
    there = kept.weight_M > 0
    load = torch.bincount(kept.expert_M[there], minlength=4)
    assert (load <= 10).all()
    before = routing.load_E(4, None)
    assert torch.equal(load, before.clamp(max=10))
    assert int(dropped) == int((before - before.clamp(max=10)).sum())
    for expert in range(4):
        mine = routing.expert_M == expert
        order = routing.weight_M[mine].argsort(descending=True) if drop == "least_weight" else torch.arange(mine.sum())
        expected = routing.token_M[mine][order[:10]]
        assert set(kept.token_M[there & (kept.expert_M == expert)].tolist()) == set(expected.tolist())


@pytest.mark.parametrize(
    ("factor", "n_experts", "n_tokens", "limit"),
    [(0.3, 2, 100, 15), (1.1, 3, 330, 121), (0.2, 3, 45, 3), (7 / 3, 7, 21, 7), (1e-9, 2, 10, 1), (1e30, 2, 10, 10)],
)
def test_a_capacity_is_exact(factor: float, n_experts: int, n_tokens: int, limit: int) -> None:
    capacity = CapacityConfig(factor=factor).build()
    token_N = torch.arange(n_tokens)
    for expert_N in (token_N % n_experts, torch.zeros_like(token_N)):
        routing = Routing.by_token(expert_N[:, None], torch.ones(n_tokens, 1))
        kept, dropped = capacity.kept(routing, n_experts, None, training=True)
        load = torch.bincount(kept.expert_M[kept.weight_M > 0], minlength=n_experts)
        assert torch.equal(load, routing.load_E(n_experts, None).clamp(max=limit))
        assert int(dropped) == n_tokens - int(load.sum())


def test_dropped_tokens_pass_by_and_their_gradient_too() -> None:
    transformer = model(n_layers=1, n_experts=2, top_k=1, capacity={"factor": 0.1}, balance="none")
    box = mixture(transformer)
    x_ND = torch.randn(40, 32, requires_grad=True)
    y_ND, routing, dropped = box.router.through(x_ND, _places(2, 20), box.experts)  # type: ignore[arg-type]
    assert int(dropped) == int((routing.load_E(2, None) - 2).clamp(min=0).sum())  # type: ignore[union-attr, arg-type]
    gone = (y_ND == 0).all(1)
    assert int(gone.sum()) == int(dropped)  # type: ignore[arg-type]
    y_ND.square().sum().backward()
    assert x_ND.grad is not None
    assert (x_ND.grad[gone] == 0).all()
    assert (x_ND.grad[~gone] != 0).any(1).all()


def test_nothing_is_dropped_outside_of_training_unless_asked_for() -> None:
    x = tokens(4, 16)
    free, limited = model().eval(), model(capacity={"factor": 0.5}).eval()
    torch.testing.assert_close(routed_outputs(free, x), routed_outputs(limited, x))
    assert not limited.config.cache_exact().reason
    dropping = model(capacity={"evaluation_factor": 0.5}).eval()
    assert not torch.allclose(routed_outputs(free, x), routed_outputs(dropping, x))
    with pytest.raises(ValueError, match="experts drop tokens by what stands beside them"):
        dropping.init_state(1)


def test_padding_takes_no_capacity() -> None:
    valid = torch.ones(2, 20, dtype=torch.bool)
    valid[0, 5:] = False
    transformer = model(capacity={"factor": 0.6, "evaluation_factor": 0.6}).double().eval()
    x = tokens(2, 20)
    logits = [transformer(x.masked_fill(~valid, filler), Layout(valid_BT=valid)).logits[valid] for filler in (1, 9)]
    torch.testing.assert_close(*logits)


# Expert dropout, in both meanings


def test_whole_experts_are_left_out_and_others_take_their_tokens() -> None:
    transformer = model(n_layers=1, n_experts=8, top_k=2, expert_dropout=0.5)
    x, used = tokens(4, 32), []
    for _ in range(40):
        load = transformer(x, targets=x).report.counts["layers.0.feed_forward.load"]
        assert int(load.sum()) == 2 * 4 * 32
        used.append(int((load > 0).sum()))
    assert min(used) >= 2
    assert 3 < sum(used) / len(used) < 5.5
    assert (
        int(
            (
                transformer.eval()(x, want=["routing"]).report.routing["layers.0.feed_forward.chosen"].sum((0, 1)) > 0
            ).sum()
        )
        == 8
    )


def test_however_many_are_left_out_a_token_has_its_k() -> None:
    transformer = model(n_layers=1, n_experts=4, top_k=3, expert_dropout=0.99)
    x = tokens(2, 16)
    for _ in range(10):
        load = transformer(x, targets=x).report.counts["layers.0.feed_forward.load"]
        assert int((load > 0).sum()) == 3


@pytest.mark.parametrize(("top_k", "kept_groups"), [(1, 1), (2, 1), (3, 2)])
def test_of_groups_too_a_token_has_its_k_in_the_groups_that_it_keeps(top_k: int, kept_groups: int) -> None:
    router = {"groups": 4, "kept_groups": kept_groups, "scoring": "sigmoid", "renormalise": False}
    transformer = model(n_layers=1, n_experts=12, top_k=top_k, expert_dropout=0.6, router=router)
    x, name = tokens(4, 32), "layers.0.feed_forward.chosen"
    for _ in range(20):
        chosen_NE = transformer(x, want=["routing"]).report.routing[name].flatten(0, 1)
        assert int(chosen_NE.any(0).sum()) < 12
        assert (chosen_NE.sum(1) == top_k).all()
        assert (chosen_NE.view(-1, 4, 3).any(2).sum(1) <= kept_groups).all()


def test_hidden_dropout_inside_experts_is_the_expert_s_own() -> None:
    transformer = model(n_layers=1, expert={"kind": "gated", "dropout": 0.5}, balance="none")
    x = tokens(2, 16)
    one, other = (transformer(x, want=["routing"]) for _ in range(2))
    assert not torch.equal(one.logits, other.logits)
    name = "layers.0.feed_forward.chosen"
    assert torch.equal(one.report.routing[name], other.report.routing[name])
    transformer.eval()
    assert torch.equal(transformer(x).logits, transformer(x).logits)


# Which layers


def test_first_layers_may_be_dense_and_then_every_second_has_experts() -> None:
    composed = config(n_layers=6, first_dense=1, every=2, expert={"kind": "gated", "activation": "gelu", "d_ff": 8})
    kinds = [layer.feed_forward.kind_name() for layer in composed.resolve()]
    assert kinds == ["gated", "gated", "experts", "gated", "experts", "gated"]
    dense = composed.resolve()[0].feed_forward.tree()
    assert (dense["activation"], dense["d_ff"]) == ("gelu", 96)
    other = config(n_layers=2, first_dense=1, dense="relu2")
    assert [layer.feed_forward.tree()["activation"] for layer in other.resolve()[:1]] == ["relu2"]
    x = tokens(2, 8)
    losses = Transformer(composed).train()(x, targets=x).losses
    assert set(losses) == {"cross_entropy", "layers.2.feed_forward.load", "layers.4.feed_forward.load"}


def test_a_layer_may_choose_its_own_experts() -> None:
    tree = config().tree() | {"layers": [{}, {"feed_forward": {"n_experts": 4, "router": "hash", "balance": None}}]}
    composed = type(config()).parse(tree)
    sizes = [layer.feed_forward.tree()["n_experts"] for layer in composed.resolve()]
    assert sizes == [8, 4]


@pytest.mark.parametrize("base", ["swiglu", "experts"])
def test_a_single_layer_cannot_say_which_layers_have_experts(base: str) -> None:
    tree = config().tree() | {"feed_forward": base, "layers": [{"feed_forward": {"kind": "experts", "every": 2}}, {}]}
    with pytest.raises(ConfigError, match=r"^layers\[0\]\.feed_forward: every says which layers have experts"):
        type(config()).parse(tree)


def test_an_encoder_decoder_has_experts_on_both_sides() -> None:
    transformer = model("encoder_decoder")
    x = tokens(2, 8)
    out = transformer(x, source=tokens(2, 6, seed=2), targets=x)
    names = {f"{side}layers.{layer}.feed_forward.load" for side in ("", "encoder.") for layer in range(2)}
    assert set(out.losses) == names | {"cross_entropy"}
    assert int(out.report.counts["encoder.layers.0.feed_forward.tokens"]) == 12


def test_an_encoder_that_stays_as_it_is_tells_nothing() -> None:
    transformer = model("encoder_decoder")
    assert transformer.encoder is not None
    transformer.encoder.eval()
    x = tokens(2, 8)
    out = transformer(x, source=x, targets=x)
    assert set(out.losses) == {"cross_entropy", "layers.0.feed_forward.load", "layers.1.feed_forward.load"}


# Costs


@pytest.mark.parametrize(("n_experts", "top_k"), [(8, 2), (64, 8), (2, 1)])
def test_experts_are_as_large_as_a_dense_layer_where_their_width_is_left_out(n_experts: int, top_k: int) -> None:
    tree = {"d_model": 384, "vocab_size": 64, "n_layers": 1}
    parse = type(config()).parse
    router = {"kind": "top_k", "renormalise": top_k > 1}
    sparse = parse(
        tree | {"feed_forward": {"kind": "experts", "n_experts": n_experts, "top_k": top_k, "router": router}}
    )
    costs = cost(Transformer(sparse)), cost(Transformer(parse(tree)))
    router_size = n_experts * 384
    assert costs[0].parameters.active == costs[1].parameters.active + router_size
    experts = 3 * 384 * 1024 // top_k * n_experts
    assert costs[0].parameters.total == costs[1].parameters.total - 3 * 384 * 1024 + experts + router_size
    assert costs[0].layers[0].token_flops == costs[1].layers[0].token_flops + 2 * router_size


def test_512_experts_of_one_layer_compute() -> None:
    transformer = model(n_layers=1, n_experts=512, top_k=8, expert={"kind": "gated", "d_ff": 4})
    x = tokens(2, 16)
    out = transformer(x, targets=x)
    out.loss.backward()
    assert isinstance(mixture(transformer), Mixture)
    assert int(out.report.counts["layers.0.feed_forward.load"].sum()) == 256


# What is refused


@pytest.mark.parametrize(
    ("stack", "options", "words"),
    [
        ("decoder", {"n_experts": 2, "top_k": 3}, r"top_k \(3\) is more than n_experts \(2\)"),
        ("decoder", {"n_experts": 513}, "512"),
        ("decoder", {"router": "expert_choice"}, "later ones too, and so a token's output would tell of what follows"),
        ("decoder", {"router": "soft"}, "mixtures of all tokens, later ones too"),
        ("encoder", {"router": "soft", "top_k": 2}, "top_k has no effect"),
        ("encoder", {"router": "expert_choice", "capacity": {}}, "capacity has no effect"),
        ("decoder", {"capacity": {"evaluation_factor": 1, "drop": "least_weight"}}, "depend on what follows them"),
        ("decoder", {"router": "hash", "expert_dropout": 0.1}, "expert_dropout has no effect"),
        (
            "decoder",
            {"top_k": 3, "router": {"groups": 4, "kept_groups": 2}, "expert_dropout": 0.1},
            "expert_dropout has no effect",
        ),
        ("decoder", {"router": "hash", "balance": "load"}, "'load' has nothing to act on"),
        ("encoder", {"router": "expert_choice", "balance": "load"}, "choose z_loss"),
        ("decoder", {"balance": "smooth_load"}, "'smooth_load' has nothing to act on with the router 'top_k'"),
        ("decoder", {"balance": ["load", {"kind": "load", "weight": 0.1}]}, "'load' stands there twice"),
        ("decoder", {"n_experts": 2, "balance": "loss_free"}, "every token goes to all 2 experts"),
        ("decoder", {"n_experts": 2, "balance": "load"}, "every token goes to all 2 experts"),
        ("decoder", {"n_experts": 2, "expert_dropout": 0.1}, "every token needs all 2 experts"),
        (
            "decoder",
            {"top_k": 1, "router": {"scoring": "softmax_after"}},
            "weight of a single expert would always be 1",
        ),
        ("decoder", {"router": {"scoring": "softmax_after", "renormalise": True}}, "renormalise has no effect"),
        ("decoder", {"router": {"groups": 3, "kept_groups": 1}}, r"groups \(3\) does not divide n_experts \(8\)"),
        ("decoder", {"router": {"groups": 4}}, "belong together"),
        ("decoder", {"router": {"groups": 4, "kept_groups": 5}}, "more than there are groups"),
        ("decoder", {"router": {"groups": 4, "kept_groups": 4}}, "no effect when all 4 groups are kept"),
        ("decoder", {"top_k": 3, "router": {"groups": 8, "kept_groups": 2}}, "more than the 2 experts of 2 groups"),
        ("decoder", {"expert": "convolutional"}, "an expert cannot be 'convolutional'; choose dense or gated"),
        ("decoder", {"expert": "experts"}, "an expert cannot be 'experts'"),
        ("decoder", {"dense": "gelu"}, "dense has no effect"),
        ("decoder", {"first_dense": 1, "dense": "experts"}, "cannot be 'experts'"),
        ("decoder", {"first_dense": 2}, "no layer would have experts"),
        ("decoder", {"every": 3}, "no layer would have experts"),
    ],
)
def test_what_has_no_meaning_is_refused(stack: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        config(stack, **options)
    assert str(error.value).startswith("feed_forward: ")
    assert str(error.value).count("\n") == 0
