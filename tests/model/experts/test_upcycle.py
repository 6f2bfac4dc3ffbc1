"""An upcycled model begins with what the dense one computes."""

import re
from typing import Any

import pytest
import torch

from sublayer.errors import ConfigError
from sublayer.model import ModelConfig, Transformer
from sublayer.model.experts import ExpertsConfig
from sublayer.model.experts.upcycle import upcycled, upcycled_config
from tests.model.experts.models import VOCAB_SIZE, mixture, tokens


def dense(feed_forward: Any = "swiglu", stack: str = "decoder", **more: Any) -> Transformer:
    config = ModelConfig.parse(
        {
            "stack": stack,
            "vocab_size": VOCAB_SIZE,
            "d_model": 32,
            "n_layers": 3,
            "attention": {"n_heads": 4},
            "feed_forward": feed_forward,
            "initialisation": {"std": None, "embedding_std": 1.0},
            **more,
        }
    )
    model = Transformer(config).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


@pytest.mark.parametrize("stack", ["decoder", "encoder", "encoder_decoder"])
@pytest.mark.parametrize(
    "feed_forward", ["swiglu", {"kind": "gated", "bias": True}, "gelu", {"kind": "dense", "bias": True, "d_ff": 64}]
)
@pytest.mark.parametrize("granularity", [1, 4])
def test_the_output_is_the_dense_model_s(stack: str, feed_forward: Any, granularity: int) -> None:
    model = dense(feed_forward, stack)
    grown = upcycled(model, n_experts=4, top_k=2, granularity=granularity)
    x = tokens(3, 12)
    source = tokens(3, 7, seed=5) if stack == "encoder_decoder" else None
    torch.testing.assert_close(grown(x, source=source).logits, model(x, source=source).logits, rtol=1e-9, atol=1e-9)
    assert mixture(grown).config.n_experts == 4 * granularity
    assert (
        grown(x, source=source, want=["routing"]).report.routing["layers.0.feed_forward.chosen"].sum(-1)
        == 2 * granularity
    ).all()


def test_a_token_chooses_whole_copies() -> None:
    grown = upcycled(dense(), n_experts=4, top_k=2, granularity=4)
    chosen = grown(tokens(3, 12), want=["routing"]).report.routing["layers.1.feed_forward.chosen"]
    whole = chosen.view(3, 12, 4, 4).sum(-1)
    assert set(whole.flatten().tolist()) == {0, 4}


def test_in_float32_they_are_equal_up_to_rounding() -> None:
    model = dense().float()
    grown = upcycled(model)
    x = tokens(2, 12)
    torch.testing.assert_close(grown(x).logits, model(x).logits, rtol=1e-5, atol=1e-5)


def test_only_the_layers_asked_for_get_experts() -> None:
    model = dense()
    grown = upcycled(model, first_dense=1, every=2)
    kinds = [isinstance(layer.feed_forward, ExpertsConfig) for layer in grown.config.resolve()]
    assert kinds == [False, False, True]
    x = tokens(2, 12)
    torch.testing.assert_close(grown(x).logits, model(x).logits, rtol=1e-9, atol=1e-9)


def test_it_learns_and_its_experts_come_apart() -> None:
    grown = upcycled(dense(), n_experts=4).train()
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    x = tokens(4, 16)
    first = grown(x, targets=x)
    first.loss.backward()
    optimizer.step()
    up = mixture(grown).experts.up
    assert not torch.equal(up[0], up[1])
    assert grown(x, targets=x).loss < first.loss


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ({}, {"top_k": 1}, "top_k: must be at least 2"),
        ({}, {"granularity": 5}, "granularity: 5 does not divide d_ff (96)"),
        ({}, {"n_experts": 2, "top_k": 3}, "top_k (3) is more than n_experts (2)"),
        ({"feed_forward": "convolutional"}, {}, "its feed-forward is 'convolutional', and only dense or gated"),
        ({"feed_forward": "experts"}, {}, "its feed-forward is 'experts'"),
        ({"layers": [{}, {"feed_forward": "gelu"}]}, {}, "its layers have different feed-forwards"),
        ({"stack": "encoder_decoder", "encoder": {"feed_forward": "gelu"}}, {}, "different feed-forwards"),
    ],
)
def test_what_cannot_be_upcycled_is_refused(model: dict[str, Any], options: dict[str, int], words: str) -> None:
    config = ModelConfig.parse({"vocab_size": VOCAB_SIZE, "d_model": 32, "n_layers": 2, **model})
    asked = {"n_experts": 8, "top_k": 2, "granularity": 1, **options}
    with pytest.raises(ConfigError, match=re.escape(words)):
        upcycled_config(config, **asked)
