"""Hyper-connections, token by token from the paper's equations, and equal to pre-norm at the start."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from sublayer.model import Transformer
from sublayer.model.cost import cost
from tests.model.residual.blocks import attention, feed_forward, lively, logits, model, norm

D = 8


def hyper(streams: int, dynamic: bool, **changes: object) -> Transformer:
    return model({"kind": "hyper_connections", "streams": streams, "dynamic": dynamic}, n_layers=2, **changes)


def scaled_norm(module: torch.nn.Module, h: Tensor) -> Tensor:
    return norm(h) * module.weight + module.bias


def around(connection: torch.nn.Module, before: torch.nn.Module, box: object, streams: Tensor, dynamic: bool) -> Tensor:
    """Zhu et al. 2024: B and A from equations 10 to 13, then H ← A_rᵀH + Bᵀ(T(A_mᵀH))ᵀ (equations 2 to 5)."""
    n = streams.shape[2]
    reads, mixes, writes = (
        torch.empty(streams.shape[:3]),
        torch.empty(*streams.shape[:3], n),
        torch.empty(streams.shape[:3]),
    )
    for place in [(b, t) for b in range(streams.shape[0]) for t in range(streams.shape[1])]:
        h_ND = streams[place]
        change = torch.zeros(n, n + 2)
        if dynamic:
            change = torch.tanh(scaled_norm(connection.norm, h_ND) @ connection.dynamic.weight.T)
        scales = connection.scales if dynamic else torch.zeros(2)
        reads[place] = connection.read_N + scales[0] * change[:, 0]
        mixes[place] = connection.mix.view(n, n) + scales[0] * change[:, 1 : n + 1]
        writes[place] = connection.write_N + scales[1] * change[:, n + 1]
    read = sum(reads[:, :, i, None] * streams[:, :, i] for i in range(n))
    y = box(scaled_norm(before, read))
    mixed = [
        sum(mixes[:, :, i, j, None] * streams[:, :, i] for i in range(n)) + writes[:, :, j, None] * y for j in range(n)
    ]
    return torch.stack(mixed, dim=2)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("streams", [1, 3])
def test_the_equations(streams: int, dynamic: bool) -> None:
    transformer = lively(hyper(streams, dynamic))
    with torch.no_grad():
        for block in transformer.blocks:
            for connection in block.residual.connections if dynamic else []:
                connection.dynamic.weight.normal_(std=0.5)
    tokens = torch.randint(0, 7, (2, 4))
    with torch.no_grad():
        h = torch.stack([F.embedding(tokens, transformer.embedding.weight)] * streams, dim=2)
        for layer, block in enumerate(transformer.blocks):
            for i, box in enumerate((attention, feed_forward)):
                connection, before = block.residual.connections[i], block.residual.norms[i]
                h = around(connection, before, lambda x, box=box, layer=layer: box(transformer, layer, x), h, dynamic)
        expected = logits(transformer, scaled_norm(transformer.final_norm, h.sum(2)))
        torch.testing.assert_close(transformer(tokens).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dynamic", [False, True])
def test_at_the_start_it_is_pre_norm(dynamic: bool) -> None:
    tokens = torch.randint(0, 7, (2, 5))
    transformer, plain = hyper(4, dynamic, norm="layer"), model("pre_norm", n_layers=2)
    # All four streams are the one of pre-norm, and the final norm takes no notice of their sum being four times that.
    torch.testing.assert_close(transformer(tokens).logits, plain(tokens).logits, rtol=1e-3, atol=1e-3)
    transformer(tokens, targets=tokens.roll(-1, 1)).loss.backward()
    for name, parameter in transformer.blocks.named_parameters():
        assert parameter.grad is not None, name


def test_sublayers_read_the_streams_in_turn() -> None:
    connections = [c for block in hyper(3, True).blocks for c in block.residual.connections]
    assert [c.read_N.tolist().index(1.0) for c in connections] == [0, 1, 2, 0]
    assert all(c.read_N.sum() == 1 for c in connections)


def test_no_number_of_the_mixing_is_a_matrix_that_an_optimizer_would_decay() -> None:
    vectors = [
        p for name, p in hyper(4, True).named_parameters() if name.endswith(("read_N", "mix", "write_N", "scales"))
    ]
    assert len(vectors) == 16
    assert all(p.ndim == 1 for p in vectors)


@pytest.mark.parametrize("dynamic", [False, True])
def test_flops_of_the_mixing_are_counted(dynamic: bool) -> None:
    transformer, tokens = (
        hyper(4, dynamic, attention={"n_heads": 2, "kernel": "reference"}),
        torch.zeros(2, 8, dtype=torch.int64),
    )
    with FlopCounterMode(display=False) as counter:
        transformer(tokens)
    assert counter.get_total_flops() == cost(transformer).forward_flops(8) * tokens.numel()
    mixing = 4 * 2 * 4 * D * (5 + 6 * dynamic)
    assert cost(transformer).forward_flops(8) - cost(model("pre_norm", n_layers=2)).forward_flops(8) == mixing


def test_under_autocast_the_streams_stay_in_float32() -> None:
    transformer, seen = hyper(4, True), []
    for block in transformer.blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        transformer(torch.zeros(1, 3, dtype=torch.int64))
    assert seen == [torch.float32] * 2
