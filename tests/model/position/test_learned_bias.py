"""A learned bias by offset against a table looked up by hand (Liu et al. 2021, equation 4)."""

import pytest
import torch

from sublayer.model import ModelConfig, Transformer
from sublayer.model.layout import Span
from sublayer.model.part import Heads, StackShape
from sublayer.model.position.learned_bias import LearnedBiasConfig


@pytest.mark.parametrize(("stack", "n_rows"), [("decoder", 6), ("encoder", 11)])
def test_each_offset_has_a_row_up_to_the_farthest(stack: str, n_rows: int) -> None:
    shape = StackShape(stack, 16, n_layers=1, max_length=64)  # type: ignore[arg-type]
    position = LearnedBiasConfig(max_distance=5).filled(shape).build(shape, Heads(3, 4))
    assert position.weight.shape == (n_rows, 3)
    torch.nn.init.normal_(position.weight)
    queries, keys = torch.tensor([[0, 9], [3, 7]]), torch.tensor([[0, 5, 9, 20], [3, 2, 1, 0]])
    span = Span(queries, keys)
    bias = position.prepare(torch.zeros(0), torch.zeros(0), span, 1.0).dense(span)
    assert bias.shape == (2, 3, 2, 4)
    for b in range(2):
        for t in range(2):
            for s in range(4):
                offset = int(queries[b, t] - keys[b, s])
                if stack == "decoder":
                    if offset < 0:
                        continue  # never seen
                    row = min(offset, 5)
                else:
                    row = max(-5, min(offset, 5)) + 5
                assert torch.equal(bias[b, :, t, s], position.weight[row])


def test_each_layer_has_a_table_of_its_own_as_long_as_texts_may_be() -> None:
    model = Transformer(
        ModelConfig(
            vocab_size=7, d_model=16, n_layers=2, max_length=20, attention={"n_heads": 2}, position="learned_bias"
        )
    )
    tables = {name: tuple(p.shape) for name, p in model.named_parameters() if "positions" in name}
    assert tables == {"positions.0.weight": (20, 2), "positions.1.weight": (20, 2)}
    assert not torch.equal(model.positions[0].weight, model.positions[1].weight)
