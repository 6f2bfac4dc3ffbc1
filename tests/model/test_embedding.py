"""Embeddings: scale, norm and segments, beside positions."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from sublayer.errors import ConfigError
from sublayer.model import Layout, ModelConfig, Transformer

SMALL = {"vocab_size": 11, "d_model": 8, "n_layers": 1, "attention": {"n_heads": 2}, "position": "learned"}


def embedded(net: Transformer, tokens: torch.Tensor, layout: Layout | None = None) -> torch.Tensor:
    inputs: list[torch.Tensor] = []
    with net.blocks[0].register_forward_pre_hook(lambda module, given: inputs.append(given[0])):
        net(tokens, layout)
    return inputs[0]


def model(**embedding: Any) -> Transformer:
    return Transformer(ModelConfig(**SMALL, initialisation={"embedding_std": 1.0}, embedding=embedding)).eval()


def test_scale_position_segment_and_norm_in_this_order() -> None:
    net = model(scale="sqrt_d_model", norm="layer", segments=2)
    tokens, segment = torch.tensor([[3, 1, 4, 1]]), torch.tensor([[0, 0, 1, 1]])
    x = net.embedding.weight[tokens] * 8**0.5 + net.positions[0].weight[:4] + net.embedding.segments.weight[segment]
    expected = F.layer_norm(x, (8,))
    torch.testing.assert_close(embedded(net, tokens, Layout(segment_BT=segment)), expected)


def test_without_a_word_on_segments_all_are_in_the_first() -> None:
    net, tokens = model(segments=2), torch.tensor([[3, 1, 4, 1]])
    first = Layout(segment_BT=torch.zeros(1, 4, dtype=torch.int64))
    torch.testing.assert_close(net(tokens).logits, net(tokens, first).logits)


def test_one_segment_is_none_to_tell_apart() -> None:
    with pytest.raises(ConfigError, match=r"embedding\.segments: must be .*2, not 1"):
        model(segments=1)


def test_segments_go_on_while_decoding() -> None:
    net, tokens = model(segments=3), torch.tensor([[3, 1, 4, 1, 5]])
    segment = torch.tensor([[0, 0, 1, 1, 2]])
    whole, state = net(tokens, Layout(segment_BT=segment)).logits, net.init_state(1, 8)
    parts = [
        net(tokens[:, a:b], Layout(segment_BT=segment[:, a:b]), state=state).logits for a, b in ((0, 3), (3, 4), (4, 5))
    ]
    torch.testing.assert_close(torch.cat(parts, 1), whole)


def test_a_final_norm_may_be_chosen() -> None:
    assert Transformer(ModelConfig(**SMALL, final_norm=False)).final_norm is None
    assert Transformer(ModelConfig(**SMALL, residual="post_norm", final_norm=True)).final_norm is not None
