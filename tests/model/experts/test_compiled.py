"""A model with experts compiles to one graph, whose loss and gradients are the same."""

import contextlib

import pytest
import torch

from sublayer.model import ModelConfig, Transformer

CAPACITY = {"capacity": {"factor": 1.0}}


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("more", [{}, CAPACITY], ids=["dropless", "capacity"])
def test_a_model_with_experts_compiles_whole(more: dict[str, object], autocast: bool) -> None:
    feed_forward = {"kind": "experts", "n_experts": 4, "expert": {"kind": "gated", "d_ff": 24, "bias": True}, **more}
    config = ModelConfig(vocab_size=32, d_model=16, n_layers=1, attention={"n_heads": 2}, feed_forward=feed_forward)
    model = Transformer(config).train()
    tokens = torch.randint(0, 32, (2, 24), generator=torch.Generator().manual_seed(0))
    found = []
    for each in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        with torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext():
            out = each(tokens, targets=tokens)
        gradients = torch.autograd.grad(out.loss, list(model.parameters()))
        found.append([out.loss.detach(), *gradients, *out.report.counts.values()])
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=1e-2 if autocast else 1e-4, atol=1e-2 if autocast else 1e-6)
