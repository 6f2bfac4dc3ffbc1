"""Heads: scores for tokens with all their options, and for classes with each pooling."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from sublayer.errors import ConfigError
from sublayer.model import Layout, ModelConfig, Transformer

SMALL = {"vocab_size": 11, "d_model": 8, "n_layers": 1, "attention": {"n_heads": 2}}


def model(**changes: Any) -> Transformer:
    net = Transformer(ModelConfig(**SMALL | changes)).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return net


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(0, 11, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("tied", [True, False])
def test_scores_of_tokens_by_the_formula(tied: bool) -> None:
    net = model(
        head={"transform": "gelu", "bias": True, "scale": "1/sqrt_d_model", "soft_cap": 2.0},
        tied_embeddings=tied,
        norm="layer",
    )
    hidden: list[torch.Tensor] = []
    net.head.register_forward_pre_hook(lambda module, inputs: hidden.append(inputs[0]))
    logits = net(tokens(2, 5)).logits
    head = net.head
    x = F.gelu(hidden[0] @ head.transform.weight.T + head.transform.bias)
    x = F.layer_norm(x, (8,), head.norm.weight, head.norm.bias, 1e-5) / 8**0.5
    weight = net.embedding.weight if tied else head.output.weight
    expected = 2 * torch.tanh((x @ weight.T + head.bias) / 2)
    torch.testing.assert_close(logits, expected)


def test_the_loss_is_that_of_the_capped_and_biased_logits() -> None:
    net = model(head={"bias": True, "scale": 3.0, "soft_cap": 1.5})
    targets = tokens(2, 5)
    out = net(tokens(2, 5), targets=targets, want=["logits"])
    assert out.logits.abs().max() <= 1.5
    torch.testing.assert_close(out.loss, F.cross_entropy(out.logits.flatten(0, 1), targets.flatten()))


@pytest.mark.parametrize(
    ("pooling", "stack"),
    [("first", "encoder"), ("mean", "encoder"), ("last", "encoder"), ("mean", "decoder"), ("last", "decoder")],
)
def test_a_row_is_scored_alike_alone_and_padded_at_either_side(pooling: str, stack: str) -> None:
    net = model(stack=stack, head={"kind": "classes", "n_classes": 3, "pooling": pooling, "hidden": True})
    text = tokens(1, 4)
    alone = net(text).logits
    assert alone.shape == (1, 3)
    filler = torch.zeros(1, 2, dtype=torch.int64)
    for padded, valid in (
        (torch.cat([text, filler], 1), [1, 1, 1, 1, 0, 0]),
        (torch.cat([filler, text], 1), [0, 0, 1, 1, 1, 1]),
    ):
        layout = Layout(valid_BT=torch.tensor([valid], dtype=torch.bool))
        torch.testing.assert_close(net(padded, layout).logits, alone)


def test_what_is_pooled() -> None:
    net = model(stack="encoder", head={"kind": "classes", "n_classes": 3, "pooling": "mean"})
    hidden: list[torch.Tensor] = []
    net.head.register_forward_pre_hook(lambda module, inputs: hidden.append(inputs[0]))
    logits = net(tokens(2, 5)).logits
    torch.testing.assert_close(logits, net.head.output(hidden[0].mean(1)))


def test_the_loss_of_classes_leaves_out_rows_without_one() -> None:
    net = model(stack="encoder", head={"kind": "classes", "n_classes": 3})
    out = net(tokens(3, 5), targets=torch.tensor([2, -100, 0]), want=["logits"])
    torch.testing.assert_close(out.loss, F.cross_entropy(out.logits[[0, 2]], torch.tensor([2, 0])))
    assert net(tokens(1, 5), targets=torch.tensor([-100])).loss == 0


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"head.n_classes: is required to build a model"):
        model(head="classes")
    for head, message in (
        ({"n_classes": 1}, r"head: n_classes is 1, and between fewer than 2 there is nothing to tell; name more or le"),
        ({"classes": ["a", "b", "a"]}, r"head: classes are a, b, a; name at least two, each once, or leave them out"),
        ({"classes": ["a"]}, r"head: classes are a; name at least two, each once, or leave them out"),
    ):
        with pytest.raises(ConfigError, match=message):
            model(head={"kind": "classes", **head})
    with pytest.raises(ConfigError, match=r"^head: pooling: the first token of a decoder has seen no other"):
        model(head={"kind": "classes", "n_classes": 3, "pooling": "first"})
    net = model(head={"kind": "classes", "n_classes": 3})
    with pytest.raises(ValueError, match=r"targets have shape \(1, 5\), but a class is needed for 1 rows"):
        net(tokens(1, 5), targets=tokens(1, 5))
    with pytest.raises(ValueError, match="one text a row"):
        net(tokens(1, 5), Layout(document_BT=torch.zeros(1, 5, dtype=torch.int64)))
    with pytest.raises(ValueError, match="logits_at: a head over classes"):
        net(tokens(1, 5), logits_at=torch.tensor([0]))


def test_logits_near_a_cap_are_told_apart_in_bfloat16() -> None:
    head = Transformer(ModelConfig(vocab_size=50, d_model=32, head={"kind": "tokens", "soft_cap": 30.0})).head
    embedding_VD, hidden_BTD = torch.zeros(50, 32), torch.zeros(1, 1, 32)
    embedding_VD[3, 0], embedding_VD[7, 0], hidden_BTD[..., 0] = 64.0, 64.5, 1
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = head(hidden_BTD, Layout(), embedding_VD)[0]
        assert logits.argmax() == 7
        loss = head.loss(hidden_BTD, Layout(), embedding_VD, torch.tensor([[7]]))
    torch.testing.assert_close(F.cross_entropy(logits, torch.tensor([7])), loss)


def test_a_long_row_s_mean_stays_finite_in_float16() -> None:
    config = ModelConfig(vocab_size=9, d_model=8, stack="encoder", head={"kind": "classes", "n_classes": 3})
    head, hidden_BTD = Transformer(config).half().head, torch.full((1, 8192, 8), 9.0).half()
    valid_BT = torch.ones(1, 8192, dtype=torch.bool)
    torch.testing.assert_close(head(hidden_BTD, Layout(valid_BT=valid_BT), None), head(hidden_BTD, Layout(), None))
