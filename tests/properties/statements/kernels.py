"""A model computes the same with every kernel: forward and gradients."""

import random
from typing import Any

import torch

from sublayer.errors import ConfigError
from sublayer.model import Layout, ModelConfig, Source
from sublayer.model.attention.base import AttentionConfig
from sublayer.model.attention.kernel import KERNELS
from sublayer.model.resolution import CROSS
from tests.properties.composition import (
    assert_equal_gradients,
    assert_equal_logits,
    gradients,
    lively,
    random_tokens,
)
from tests.properties.statement import Subject, statement


def with_kernel(config: ModelConfig, kernel: str) -> ModelConfig:
    """The same composition with one kernel in every layer.

    Raises:
        ConfigError: when the kernel cannot carry it.
    """

    def changed(tree: dict[str, Any]) -> dict[str, Any]:
        tree = dict(tree)
        for name in ("attention", CROSS):
            if tree.get(name) is not None:
                tree[name] = _named(tree[name], kernel)
        if "layers" in tree:
            tree["layers"] = [changed(layer) for layer in tree["layers"]]
        if tree.get("encoder"):
            tree["encoder"] = changed(tree["encoder"])
        return tree

    return ModelConfig.parse(changed(config.tree()))


def _named(value: Any, kernel: str) -> Any:
    registry = AttentionConfig.registry
    if isinstance(value, dict) and "kind" not in value:  # of the kind below it, with whose kernel it is merged
        return {name: option for name, option in value.items() if name != "kernel"}
    values = dict(registry.expand(value))
    return values | {"kernel": kernel} if "kernel" in registry[values["kind"]].model_fields else values


def some_layout(dice: random.Random, by_token: bool) -> Layout | None:
    """For three rows of nine tokens."""
    layouts = [None, Layout.ragged([9, 0, 4])]
    if by_token:
        layouts += [
            Layout(document_BT=torch.tensor([[0] * 4 + [1] * 5, [1] * 9, [5, 6, 7, 7, 7, 7, 8, 8, 8]])),
            Layout(
                document_BT=torch.tensor([[0] * 4 + [1] * 5] * 3),
                valid_BT=torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 0]] * 3, dtype=torch.bool),
            ),
        ]
    return dice.choice(layouts)


@statement(lambda config: any(hasattr(layer.attention, "kernel") for layer in config.all_layers()))
def every_kernel_computes_the_same(subject: Subject, dice: random.Random) -> None:
    kernel = dice.choice(["auto", *(name for name in KERNELS if name != "reference")])
    try:
        other = Subject(with_kernel(subject.config, kernel))
    except ConfigError as error:
        assert f"the kernel '{kernel}' cannot carry" in str(error)  # noqa: PT017 (another refusal is a failure)
        return
    reference = Subject(with_kernel(subject.config, "reference"))
    layout, tokens, source = some_layout(dice, subject.config.head.by_token), random_tokens(1, 3, 9), subject.source(3)
    read: Source | None = None
    if source is not None:
        # One document a row where the tokens say their documents; some of those then see no source at all.
        packed = layout is not None and layout.document_BT is not None
        read = Source(source, Layout(document_BT=torch.tensor([[0, 0, 1, 1, 1]] * 3)) if packed else Layout())
    expected, actual = reference.logits(tokens, layout, read), other.logits(tokens, layout, read)
    assert_equal_logits(actual, expected)
    cotangent = subject.cotangent(*expected.shape)
    assert_equal_gradients(
        gradients(other.model, (actual * cotangent).sum()), gradients(reference.model, (expected * cotangent).sum())
    )


@statement(share=0.15)
def asking_for_weights_changes_nothing(subject: Subject, dice: random.Random) -> None:
    tokens, layout = random_tokens(1, 3, 9), some_layout(dice, subject.config.head.by_token)
    source = subject.source(3)
    read = None if source is None else Source(source, Layout())
    if read is not None and layout is not None and layout.document_BT is not None:
        layout = None
    with torch.no_grad():
        told = subject.model(tokens, layout, source=read, want=["attention"])
        assert_equal_logits(told.logits, subject.logits(tokens, layout, read))
    assert len(told.report.attention) >= len(subject.config.all_layers())
    for weights in told.report.attention.values():
        assert weights.isfinite().all()


@statement(share=0.15)
def a_packed_model_computes_the_same_and_comes_back_whole(subject: Subject, dice: random.Random) -> None:
    model = lively(subject.config).float()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tokens, source = random_tokens(dice.randrange(99), 2, 6), subject.source(2)
    with torch.no_grad():
        expected = model(tokens, source=source).logits
        actual = model.pack()(tokens, source=source).logits
        assert (actual - expected).abs().max() <= 1e-4 * (1 + expected.abs().max())
        packed = model.state_dict()
        assert list(packed) == list(before)
        assert all(torch.equal(packed[name], tensor) for name, tensor in before.items())
        assert torch.equal(model.unpack()(tokens, source=source).logits, expected)
