"""The usual wirings against a block written by hand, and what all wirings have in common."""

import pytest
import torch
from torch import Tensor

from sublayer.model.residual import ResidualConfig
from tests.model.residual.blocks import attention, feed_forward, lively, model, norm


def test_pre_norm_is_x_plus_sublayer_of_norm_and_a_norm_at_the_end() -> None:
    transformer = model("pre_norm", n_layers=2)
    tokens = torch.randint(0, 7, (2, 5))
    x = torch.nn.functional.embedding(tokens, transformer.embedding.weight)
    for layer in range(2):
        x = x + attention(transformer, layer, norm(x))
        x = x + feed_forward(transformer, layer, norm(x))
    expected = norm(x) @ transformer.embedding.weight.T
    torch.testing.assert_close(transformer(tokens).logits, expected, rtol=1e-4, atol=1e-4)


def test_post_norm_is_norm_of_x_plus_sublayer_and_none_at_the_end() -> None:
    transformer = model("post_norm", n_layers=2)
    assert transformer.final_norm is None
    tokens = torch.randint(0, 7, (2, 5))
    x = torch.nn.functional.embedding(tokens, transformer.embedding.weight)
    for layer in range(2):
        x = norm(x + attention(transformer, layer, x))
        x = norm(x + feed_forward(transformer, layer, x))
    expected = x @ transformer.embedding.weight.T
    torch.testing.assert_close(transformer(tokens).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("last", "has_norm"),
    [
        ("pre_norm", True),
        ("sandwich", True),
        ("res_post_norm", True),
        ("parallel", True),
        ("layer_scale", True),
        ("post_norm", False),
        ("deepnorm", False),
        ("rezero", False),
        ("none", False),
    ],
)
def test_the_last_layer_s_wiring_decides_about_the_final_norm(last: str, has_norm: bool) -> None:
    transformer = model("pre_norm", n_layers=2, layers=[{"residual": "post_norm"}, {"residual": last}])
    assert (transformer.final_norm is not None) == has_norm


@pytest.mark.parametrize("residual", [part.kind_name() for part in ResidualConfig.registry])
@pytest.mark.parametrize("where", ["dropout", "attention.dropout", "feed_forward.dropout"])
def test_dropout_is_active_in_training_alone(residual: str, where: str) -> None:
    changes: dict[str, object] = {
        "dropout": {"dropout": 0.5},
        "attention.dropout": {"attention": {"n_heads": 2, "dropout": 0.5}},
        "feed_forward.dropout": {"feed_forward": {"kind": "relu", "dropout": 0.5}},
    }[where]
    dropping, plain = lively(model(residual, **changes)), lively(model(residual))
    tokens = torch.randint(0, 7, (2, 6))
    expected = plain(tokens).logits
    dropping.train()
    torch.manual_seed(0)
    first, second = dropping(tokens).logits, dropping(tokens).logits
    assert not torch.allclose(first, second)
    assert not torch.allclose(first, expected)
    dropping.eval()
    torch.testing.assert_close(dropping(tokens).logits, expected)


def test_dropout_in_the_stream_keeps_its_mean() -> None:
    transformer = model("pre_norm", dropout=0.25).train()
    torch.manual_seed(0)
    embedded: list[Tensor] = []
    transformer.blocks[0].register_forward_pre_hook(lambda module, inputs: embedded.append(inputs[0]))
    tokens = torch.zeros(64, 64, dtype=torch.int64)
    transformer(tokens)
    kept = (embedded[0] != 0).float().mean()
    assert kept.item() == pytest.approx(0.75, abs=0.01)
    torch.testing.assert_close(embedded[0].mean((0, 1)), transformer.embedding.weight[0], rtol=0.1, atol=0.03)
