"""The convolution over tokens, tap by tap: who is a token's neighbour, and what decoding remembers of it."""

import math

import pytest
import torch
from torch import Tensor
from transformers import SegformerConfig
from transformers.models.segformer.modeling_segformer import SegformerMixMLP

from sublayer.errors import ConfigError
from sublayer.model import Layout, ModelConfig, Transformer
from sublayer.model.cost import cost
from sublayer.model.feed_forward.convolutional import Convolutional
from sublayer.model.feed_forward.tail import Tail
from sublayer.model.layout import Span
from sublayer.model.sublayer import Context


def model(stack: str = "decoder", **options: object) -> Transformer:
    return Transformer(
        ModelConfig(
            stack=stack,
            vocab_size=9,
            d_model=6,
            n_layers=1,
            position="none",
            attention={"n_heads": 1},
            feed_forward={"kind": "convolutional", "d_ff": 10, **options},
            initialisation={"std": None, "embedding_std": 1.0},
        )
    )


def box(stack: str = "decoder", **options: object) -> Convolutional:
    module = model(stack, **options).blocks[0].feed_forward
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    return module.double()


def run(module: Convolutional, x: Tensor, layout: Layout | None = None) -> Tensor:
    given = (layout or Layout()).resolved(x.shape[1], x.device)
    context = Context(given, Span.within(given, given.plain), None)
    return module(x, context)[0]


def by_hand(module: Convolutional, x_TD: Tensor, ahead: int, gated: bool) -> Tensor:
    """One document by itself: Σ_w c_w ⊙ u_{t + w − before} with zeros beyond its ends."""
    up = module.up(x_TD)
    read, kernel = (module.gate(x_TD) if gated else up), module.convolution.weight[:, 0]
    width = kernel.shape[1]
    outputs = []
    for t in range(len(x_TD)):
        total = torch.zeros(kernel.shape[0], dtype=x_TD.dtype)
        for w in range(width):
            neighbour = t + w - (width - 1 - ahead)
            if 0 <= neighbour < len(x_TD):
                total = total + kernel[:, w] * read[neighbour]
        outputs.append(total + (0 if module.convolution.bias is None else module.convolution.bias))
    convolved = torch.stack(outputs)
    active = convolved * (1 + torch.erf(convolved / math.sqrt(2))) / 2
    return module.down(active * up if gated else active)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(
    ("stack", "width", "ahead"),
    [("decoder", 1, 0), ("decoder", 2, 0), ("decoder", 3, 0), ("decoder", 9, 0), ("encoder", 3, 1), ("encoder", 5, 2)],
)
def test_the_formula(stack: str, width: int, ahead: int, gated: bool, bias: bool) -> None:
    module = box(stack, kernel_size=width, gated=gated, bias=bias)
    x = torch.randn(2, 7, 6, dtype=torch.float64)
    expected = torch.stack([by_hand(module, row, ahead, gated) for row in x])
    torch.testing.assert_close(run(module, x), expected)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(("stack", "ahead"), [("decoder", 0), ("encoder", 2)])
def test_neighbours_are_of_the_same_document_and_no_padding(stack: str, ahead: int, gated: bool) -> None:
    module = box(stack, kernel_size=5, gated=gated, bias=True)
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    documents = torch.tensor([[4, 4, 4, 7, 0, 0, 0, 0, 0], [9, 9, 1, 1, 1, 1, 2, 2, 2]])
    valid = torch.ones(2, 9, dtype=torch.bool)
    valid[0, 7:] = False
    valid[1, :1] = False
    x[~valid] = torch.inf  # what stands in padding must not matter at all
    y = run(module, x, Layout(document_BT=documents, valid_BT=valid))
    for row, begin, end in [(0, 0, 3), (0, 3, 4), (0, 4, 7), (1, 1, 2), (1, 2, 6), (1, 6, 9)]:
        torch.testing.assert_close(y[row, begin:end], by_hand(module, x[row, begin:end], ahead, gated))


def test_gaps_in_positions_do_not_part_neighbours() -> None:
    module, x = box(kernel_size=3), torch.randn(1, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(run(module, x, Layout(torch.tensor([[0, 1, 5, 20, 21]]))), run(module, x))


def test_segformer_s_convolution_over_a_picture_one_pixel_high_is_this_one() -> None:
    torch.manual_seed(0)
    peer = SegformerMixMLP(SegformerConfig(hidden_dropout_prob=0.0), 6, 10, 6).double()
    module = box("encoder", bias=True)
    with torch.no_grad():
        for ours, theirs in ((module.up, peer.fc1), (module.down, peer.fc2)):
            ours.weight.copy_(theirs.weight)
            ours.bias.copy_(theirs.bias)
        module.convolution.weight.copy_(peer.dwconv.dwconv.weight[:, :, 1])  # the other rows meet nothing but zeros
        module.convolution.bias.copy_(peer.dwconv.dwconv.bias)
    x = torch.randn(2, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(run(module, x), peer(x, 1, 7))


def test_decoding_remembers_the_inputs_at_the_last_tokens_alone() -> None:
    transformer = model(kernel_size=4)
    state = transformer.init_state(2, 30, max_rewind=2)
    tail = state.layers[0][1]
    assert isinstance(tail, Tail)
    assert tail.kept_BCF.shape == (2, 3 + 2, 10)
    held = tail.n_bytes
    tokens = torch.randint(0, 9, (2, 20))
    read: list[Tensor] = []
    transformer.blocks[0].feed_forward.up.register_forward_hook(lambda module, inputs, output: read.append(output))
    with torch.no_grad():
        for begin, end in [(0, 7), (7, 8), (8, 9), (9, 20)]:
            transformer(tokens[:, begin:end], state=state)
    assert tail.n_bytes == held
    torch.testing.assert_close(tail.kept_BCF, torch.cat(read, dim=1)[:, -5:])


def test_a_kernel_of_one_token_remembers_nothing() -> None:
    assert model(kernel_size=1).init_state(1, 8, max_rewind=2).layers[0][1] is None


@pytest.mark.parametrize("gated", [False, True])
def test_decoding_with_documents_told_late_taken_back_and_padded(gated: bool) -> None:
    transformer = model(kernel_size=4, gated=gated).double().eval()
    tokens = torch.randint(0, 9, (2, 8))
    with torch.no_grad():
        state = transformer.init_state(2, 20, max_rewind=2)
        transformer(tokens[:, :5], state=state)  # all of document 0, which is not told
        state.rewind(torch.tensor([2, 1]))
        state.select([1, 0])
        rows = [[*tokens[1, :4].tolist()], [*tokens[0, :3].tolist()]]
        more = torch.tensor([[8, 1, 2], [3, 4, 8]])
        valid = torch.tensor([[False, True, True], [True, True, False]])
        documents = torch.tensor([[0, 0, 5], [6, 6, 6]])
        logits = transformer(more, Layout(document_BT=documents, valid_BT=valid), state=state).logits
        expected = [
            transformer(torch.tensor([rows[0] + [1]])).logits[0, -1],
            transformer(torch.tensor([[2]])).logits[0, -1],
            *transformer(torch.tensor([[3, 4]])).logits[0],
        ]
    torch.testing.assert_close(logits[valid], torch.stack(expected))


def test_even_kernels_have_no_middle_and_an_encoder_refuses_them() -> None:
    with pytest.raises(
        ConfigError, match=r"kernel_size \(4\) must be odd in an encoder, where a token stands in the mid"
    ):
        model("encoder", kernel_size=4)


@pytest.mark.parametrize(("gated", "matrices", "width"), [(False, 2, 4 * 24), (True, 3, 64)])
def test_costs_and_widths(gated: bool, matrices: int, width: int) -> None:
    sizes = {"vocab_size": 9, "d_model": 24, "n_layers": 1, "attention": {"n_heads": 2}}
    given = {"kind": "convolutional", "gated": gated, "kernel_size": 5}
    config = ModelConfig(**sizes, feed_forward=given)
    assert config.resolve()[0].feed_forward.d_ff == width
    with_it, without = (
        cost(Transformer(each)).layers[0].token_flops for each in (config, ModelConfig(**sizes, feed_forward="none"))
    )
    assert with_it - without == 2 * matrices * 24 * width + 2 * 5 * width


def test_taps_start_so_wide_that_hidden_units_keep_their_variance() -> None:
    module = model(kernel_size=4, d_ff=4000).blocks[0].feed_forward
    assert module.convolution.weight.std().item() == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize("stack", ["decoder", "encoder"])
@pytest.mark.parametrize("gated", [False, True])
def test_packed_documents_compile_as_one_graph(stack: str, gated: bool) -> None:
    net, tokens = model(stack, gated=gated).double(), torch.arange(9)[None]
    layout = Layout(document_BT=torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 2]]))
    torch.compiler.reset()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens, layout).logits, net(tokens, layout).logits)
