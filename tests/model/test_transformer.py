"""The model as a whole: its parameters, its output, its precision."""

import pytest
import torch

from sublayer.model import ModelConfig, Transformer
from sublayer.model.transformer import Output


def config(**changes: object) -> ModelConfig:
    values: dict[str, object] = {"vocab_size": 50, "d_model": 16, "n_layers": 2, "attention": {"n_heads": 4}}
    return ModelConfig(**values | changes)


def test_parameters_counted_by_hand() -> None:
    """A layer: 4·16·16 of attention, 3·16·64 of SwiGLU at d_ff 64, two scales of 16; a last scale; 50·16 embeddings."""
    changes = {"feed_forward": {"kind": "swiglu", "d_ff": 64}}
    layers = 2 * (4 * 16 * 16 + 3 * 16 * 64 + 2 * 16) + 16
    assert Transformer(config(**changes)).n_parameters() == layers + 50 * 16
    assert Transformer(config(**changes)).n_parameters(embeddings=False) == layers
    untied = Transformer(config(tied_embeddings=False, **changes))
    assert untied.n_parameters() == layers + 2 * 50 * 16
    assert untied.n_parameters(embeddings=False) == layers


def test_tied_embeddings_are_one_tensor() -> None:
    tied, untied = Transformer(config()), Transformer(config(tied_embeddings=False))
    assert tied.head.output is None
    assert "head.output.weight" not in tied.state_dict()
    assert untied.state_dict()["head.output.weight"].shape == (50, 16)


def test_layers_with_the_same_position_share_its_module_and_others_do_not() -> None:
    model = Transformer(config(n_layers=4, position="rope", layers=[{}, {"position": "none"}]))
    assert len(model.positions) == 2
    assert model._position_of == [0, 1, 0, 1]


def test_a_layer_without_positions_is_not_turned_by_its_neighbour_s() -> None:
    """rope on no layer is none: with rope overridden on both layers the positions must not matter."""
    model = Transformer(config(position="rope", layers=[{"position": "none"}], stack="encoder"))
    plain = Transformer(config(position="none", stack="encoder"))
    tokens = torch.randint(0, 50, (1, 6))
    torch.testing.assert_close(model(tokens).logits, plain(tokens).logits)


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float64,) * 2, (torch.bfloat16, torch.float32)])
def test_logits_are_in_float32_or_finer(dtype: torch.dtype, expected: torch.dtype) -> None:
    assert Transformer(config()).to(dtype)(torch.zeros(1, 3, dtype=torch.int64)).logits.dtype == expected


@pytest.mark.parametrize("residual", ["pre_norm", "post_norm"])
@pytest.mark.parametrize("position", ["rope", "alibi", "learned"])
def test_autocast_stays_close_to_float32(position: str, residual: str) -> None:
    model = Transformer(config(position=position, residual=residual))
    tokens = torch.randint(0, 50, (2, 12))
    exact = model(tokens, targets=tokens).loss
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(tokens, targets=tokens).loss
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=0.02)
    rough.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_decoding_under_autocast_keeps_caches_in_its_dtype() -> None:
    model = Transformer(config())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        state = model.init_state(1, 8)
        assert state.layers[0][0].k_BGCK.dtype == torch.bfloat16
        logits = model(torch.zeros(1, 3, dtype=torch.int64), state=state).logits
    assert logits.dtype == torch.float32


def test_nothing_is_left_on_the_model_by_a_pass() -> None:
    model = Transformer(config())
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    model(torch.zeros(1, 3, dtype=torch.int64), want=["attention"])
    after = {name: dict(vars(module)) for name, module in model.named_modules()}
    assert before.keys() == after.keys()
    for name, attributes in before.items():
        assert attributes.keys() == after[name].keys()


def test_an_output_is_a_tree_to_torch() -> None:
    out = Transformer(config())(torch.zeros(1, 3, dtype=torch.int64), targets=torch.ones(1, 3, dtype=torch.int64))
    doubled = torch.utils._pytree.tree_map(lambda x: x * 2, out)
    assert isinstance(doubled, Output)
    assert doubled.loss.item() == pytest.approx(2 * out.loss.item())


def test_a_model_learns() -> None:
    """A few steps on one batch take the loss far below that of guessing."""
    torch.manual_seed(0)
    model = Transformer(config())
    tokens = torch.randint(0, 50, (4, 9))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = model(tokens[:, :-1], targets=tokens[:, 1:]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5


def test_logits_at_one_place_of_each_row_are_those_of_the_whole() -> None:
    model = Transformer(config())
    tokens = torch.randint(0, 50, (3, 7), generator=torch.Generator().manual_seed(0))
    whole = model(tokens).logits
    places = torch.tensor([6, 0, 3])
    torch.testing.assert_close(model(tokens, logits_at=places).logits[:, 0], whole[torch.arange(3), places])
    with pytest.raises(ValueError, match="either targets or logits_at"):
        model(tokens, targets=tokens, logits_at=places)
