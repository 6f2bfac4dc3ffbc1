"""Positions that layers choose for themselves."""

import torch

from sublayer.model import Layout, ModelConfig, Transformer
from sublayer.model.position.rope import Rope


def config(**changes: object) -> ModelConfig:
    values: dict[str, object] = {
        "vocab_size": 11,
        "d_model": 16,
        "n_layers": 4,
        "position": "rope",
        "attention": {"n_heads": 2, "pattern": {"kind": "window", "size": 4}},
        "layers": [{}, {"position": "none", "attention": {"pattern": "full"}}],
        "initialisation": {"std": None, "embedding_std": 1.0},
    }
    return ModelConfig(**values | changes)


def test_rotary_on_window_layers_and_none_on_full_ones() -> None:
    model = Transformer(config())
    assert [type(model.position(n)) is Rope for n in range(4)] == [True, False, True, False]
    assert len(model.positions) == 2, "layers that choose alike share"


def test_a_full_layer_without_positions_does_not_see_how_far_apart_tokens_are() -> None:
    tokens, gaps = torch.randint(0, 11, (1, 8)), torch.tensor([[0, 1, 2, 3, 4, 5, 6, 90]])
    for kept, sees in (("none", False), ("rope", True)):
        model = Transformer(config(n_layers=1, layers=[{"position": kept, "attention": {"pattern": "full"}}])).double()
        apart = model(tokens, Layout(positions_BT=gaps)).logits
        assert (not torch.allclose(apart, model(tokens).logits, atol=1e-4)) == sees


def test_decoding_a_mixture_equals_one_full_pass() -> None:
    model, tokens = Transformer(config()).double(), torch.randint(0, 11, (2, 12))
    state = model.init_state(2, 12)
    steps = torch.cat([model(tokens[:, t : t + 1], state=state).logits for t in range(12)], dim=1)
    torch.testing.assert_close(steps, model(tokens).logits, rtol=0, atol=1e-5)


def test_every_layer_may_have_another_encoding() -> None:
    kinds = ["rope", "alibi", "t5", "shaw", "transformer_xl", "kerple", "fire", "cope", "learned_bias", "none"]
    model = Transformer(config(n_layers=10, layers=[{"position": kind} for kind in kinds]))
    assert len({type(position) for position in model.positions}) == 10
    assert model(torch.randint(0, 11, (2, 9))).logits.isfinite().all()
