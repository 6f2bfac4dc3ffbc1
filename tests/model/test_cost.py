"""What `cost` counts, beside the built model and a trace of what it computes."""

from collections.abc import Callable

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sublayer.errors import ConfigError
from sublayer.model import ModelConfig, Transformer
from sublayer.model.attention.pattern import Pattern
from sublayer.model.attention.pattern.base import Causal, Everything, Near
from sublayer.model.cost import ModelCost, cost
from sublayer.model.ghost import ghost

MATRICES = {"attention": {"n_heads": 2, "kernel": "reference"}, "vocab_size": 50, "d_model": 16, "n_layers": 2}


def counted(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def of(**changes: object) -> ModelCost:
    return cost(ghost(ModelConfig(**MATRICES | changes)))


def test_parameters_by_hand() -> None:
    parameters = of(feed_forward={"kind": "dense", "d_ff": 32}, tied_embeddings=False).parameters
    layer = 4 * 16 * 16 + 2 * 16 * 32 + 2 * 16
    assert parameters.non_embedding == 2 * layer + 16
    assert parameters.total == 2 * layer + 16 + 2 * 50 * 16
    assert parameters.active == parameters.total


def test_flops_by_hand() -> None:
    model = of(feed_forward={"kind": "dense", "d_ff": 32}, position="none")
    by_token = 2 * (50 * 16 + 2 * (4 * 16 * 16 + 2 * 16 * 32))
    assert model.forward_flops(10) == by_token + 2 * 4 * 16 * 10
    assert model.forward_flops(10, "visible") == by_token + 2 * 4 * 16 * 5.5  # (1 + … + 10) / 10 keys a query
    assert model.training_flops(10) == 3 * model.forward_flops(10)
    assert model.decoding_flops(10) == by_token + 2 * 4 * 16 * 10


def test_a_window_spares_visible_pairs_and_cached_keys() -> None:
    full = of()
    window = of(attention={"n_heads": 2, "pattern": {"kind": "window", "size": 4}})
    assert window.forward_flops(64) == full.forward_flops(64)
    assert window.forward_flops(64, "visible") < full.forward_flops(64, "visible")
    assert window.decoding_flops(4) == full.decoding_flops(4)
    assert window.decoding_flops(64) == window.decoding_flops(4) < full.decoding_flops(64)


@pytest.mark.parametrize("position", ["learned", "sinusoidal", "none", "rope", "alibi"])
def test_positions_are_looked_up_or_added_for_nothing(position: str) -> None:
    assert of(position=position).forward_flops(8) == of(position="none").forward_flops(8)


@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("tied", [True, False])
def test_flops_equal_a_trace_of_training_at_other_shapes(kv_heads: int, tied: bool) -> None:
    config = ModelConfig(
        **MATRICES | {"attention": {"n_heads": 2, "n_kv_heads": kv_heads, "kernel": "reference"}}, tied_embeddings=tied
    )
    model = Transformer(config)
    tokens = torch.randint(0, 50, (3, 40))
    traced = counted(lambda: model(tokens, targets=tokens).loss.backward())
    assert traced == pytest.approx(cost(model).training_flops(40) * tokens.numel(), rel=0.02)


def test_flops_equal_a_trace_of_decoding() -> None:
    config = ModelConfig(**MATRICES, layers=[{}, {"attention": {"pattern": {"kind": "window", "size": 3}}}])
    model = Transformer(config).eval()
    state = model.init_state(1, 9)
    with torch.no_grad():
        for length in range(1, 9):
            token = torch.randint(0, 50, (1, 1))
            traced = counted(lambda token=token: model(token, state=state))
            assert traced == pytest.approx(cost(model).decoding_flops(length), rel=0.02), length


@pytest.mark.parametrize("length", [1, 2, 7, 40])
@pytest.mark.parametrize("pattern", [Everything(), Causal(), Near(0, 0), Near(3, 0), Near(2, 5), Near(60, 60)], ids=str)
def test_pairs_in_a_formula_equal_pairs_looked_at(pattern: Pattern, length: int) -> None:
    assert pattern.n_pairs(length) == Pattern.n_pairs(pattern, length)


def test_pairs_of_a_long_document_are_drawn() -> None:
    pattern = Near(100, 0) & Causal()
    assert pattern.n_pairs(20_000) == pytest.approx(Near(100, 0).n_pairs(20_000), rel=0.02)


def test_a_part_of_one_s_own_is_counted_by_its_weights() -> None:
    from tests.properties import plugin_parts  # noqa: F401  (registers them)

    none, own = of(feed_forward="none"), of(feed_forward={"kind": "bottleneck", "width": 5})
    assert own.forward_flops(8) - none.forward_flops(8) == 2 * 2 * 2 * 5 * 16
    assert own.parameters.total - none.parameters.total == 2 * (2 * 5 * 16 + 5 + 16 + 16)


def test_weights_that_a_token_does_not_use_are_not_active(monkeypatch: pytest.MonkeyPatch) -> None:
    from sublayer.model.feed_forward.gated import GatedConfig

    whole = of(feed_forward={"kind": "gated", "d_ff": 32})
    monkeypatch.setattr(GatedConfig, "active_share", lambda self, name: 0.25)
    share = of(feed_forward={"kind": "gated", "d_ff": 32})
    idle = 2 * 0.75 * 3 * 16 * 32
    assert share.parameters.total == whole.parameters.total
    assert share.parameters.active == whole.parameters.active - idle
    assert share.forward_flops(8) == whole.forward_flops(8) - 2 * idle


def test_sizes_that_no_tensor_can_have_are_refused() -> None:
    with pytest.raises(ConfigError, match="no such model can be built"):
        ghost(ModelConfig(vocab_size=10**12, d_model=10**12, attention={"n_heads": 1}))
