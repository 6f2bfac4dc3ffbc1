"""Cross-attention against loops over heads, queries and source tokens, and with its source remembered."""

import math

import pytest
import torch
from torch import Tensor

from sublayer.model import Layout, State
from sublayer.model.attention.memory import SourceMemory
from sublayer.model.attention.multi_head import CrossMultiHead, MultiHeadConfig
from sublayer.model.layout import Span
from sublayer.model.part import StackShape
from sublayer.model.position import Position
from sublayer.model.source import Encoded
from sublayer.model.sublayer import Context

SHAPE = StackShape("decoder", d_model=12, n_layers=2, max_length=16)


def cross(**options: object) -> CrossMultiHead:
    module = MultiHeadConfig(**options).filled_across(SHAPE).build(SHAPE, cross=True)
    assert isinstance(module, CrossMultiHead)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module.double()


def context(n_tokens: int, source: Encoded | None, layout: Layout | None = None, **more: object) -> Context:
    layout = (layout or Layout()).resolved(n_tokens, torch.device("cpu"))
    return Context(layout, Span.within(layout, False), Position(), source=source, **more)


def encoded(rows: int, n_tokens: int, layout: Layout | None = None) -> Encoded:
    hidden = torch.randn(rows, n_tokens, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return Encoded(hidden, (layout or Layout()).resolved(n_tokens, torch.device("cpu")))


def by_loops(module: CrossMultiHead, x_TD: Tensor, source_SD: Tensor, seen: list[list[int]]) -> Tensor:
    """Of one row: query i over the source tokens `seen[i]`, head by head."""
    q, k, v = module.query(x_TD), module.key(source_SD), module.value(source_SD)
    width, group = module.d_head, module.n_heads // module.n_kv_heads
    out = torch.zeros(x_TD.shape[0], module.n_heads * width, dtype=x_TD.dtype)
    for h in range(module.n_heads):
        mine, shared = slice(h * width, (h + 1) * width), slice(h // group * width, (h // group + 1) * width)
        for i, keys in enumerate(seen):
            if keys:
                weights = (k[keys, shared] @ q[i, mine] / math.sqrt(width)).softmax(0)
                out[i, mine] = weights @ v[keys, shared]
    return module.output(out)


@pytest.mark.parametrize("kernel", ["auto", "reference", "dense"])
@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
def test_every_query_sees_the_whole_source(n_kv_heads: int, kernel: str) -> None:
    module, source = cross(n_heads=4, n_kv_heads=n_kv_heads, kernel=kernel, bias=True), encoded(2, 7)
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    y, _ = module(x, context(5, source))
    for row in range(2):
        torch.testing.assert_close(y[row], by_loops(module, x[row], source.hidden_BSD[row], [list(range(7))] * 5))


@pytest.mark.parametrize("kernel", ["auto", "reference", "dense"])
def test_documents_match_by_number_and_padding_is_not_seen(kernel: str) -> None:
    module = cross(n_heads=2, kernel=kernel)
    source = encoded(
        1, 6, Layout(document_BT=torch.tensor([[3, 3, 3, 5, 5, 9]]), valid_BT=torch.tensor([[1, 1, 0, 1, 1, 1]]).bool())
    )
    layout = Layout(document_BT=torch.tensor([[5, 3, 3, 7]]))
    x = torch.randn(1, 4, 12, dtype=torch.float64)
    y, report = module(x, context(4, source, layout, want=frozenset({"attention"})))
    seen = [[3, 4], [0, 1], [0, 1], []]
    torch.testing.assert_close(y[0], by_loops(module, x[0], source.hidden_BSD[0], seen))
    weights = report.attention["weights"][0]
    for i, keys in enumerate(seen):
        hidden = [j for j in range(6) if j not in keys]
        assert (weights[:, i, hidden] == 0).all()
        assert torch.allclose(weights[:, i].sum(-1), torch.tensor(float(bool(keys)), dtype=torch.float64))


def test_documents_on_one_side_only_are_refused() -> None:
    source = encoded(1, 3)
    with pytest.raises(ValueError, match="must both say which documents there are, or neither"):
        cross()(torch.randn(1, 2, 12).double(), context(2, source, Layout(document_BT=torch.zeros(1, 2).long())))


def test_a_source_is_read_once_and_remembered_by_row() -> None:
    module = cross(n_heads=4, n_kv_heads=2)
    source = encoded(3, 5, Layout.ragged([5, 2, 3]))
    x = torch.randn(3, 6, 12, dtype=torch.float64)
    whole, _ = module(x, context(6, source))
    memory = module.new_memory(3, 6, 0, torch.device("cpu"), torch.float64)
    assert isinstance(memory, SourceMemory)
    state = State(3, 6, 0, [[memory]], torch.device("cpu"))
    with pytest.raises(ValueError, match="the state has seen no source: give it with the first tokens"):
        module(x[:, :1], context(1, None, state=state), memory)
    first, _ = module(x[:, :2], context(2, source, state=state), memory)
    assert memory.n_bytes == 3 * 5 * memory.source_bytes == 3 * 5 * 2 * 2 * 3 * 8
    module.key = module.value = None  # not read again
    second, _ = module(x[:, 2:4], context(2, None, state=state), memory)
    state.select([2, 0, 0, 1])
    state.rewind(0)
    third, _ = module(x[[2, 0, 0, 1], 4:], context(2, None, state=state), memory)
    torch.testing.assert_close(torch.cat([first, second], 1), whole[:, :4])
    torch.testing.assert_close(third, whole[[2, 0, 0, 1], 4:])


def test_a_window_cannot_be_laid_over_another_sequence() -> None:
    with pytest.raises(ValueError, match=r"sees the whole source, and the pattern 'window'.*set pattern: full"):
        MultiHeadConfig(pattern="window").filled_across(SHAPE)


def test_flops_of_the_source_are_those_of_keys_and_values() -> None:
    config = MultiHeadConfig(n_heads=4, n_kv_heads=2).filled_across(SHAPE)
    shapes = {name: tuple(p.shape) for name, p in config.build(SHAPE, cross=True).named_parameters()}
    assert config.token_flops(shapes) == 2 * (2 * 12 * 12 + 2 * 6 * 12)
    assert config.source_flops(shapes) == 2 * 2 * 6 * 12
