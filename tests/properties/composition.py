"""Random legal compositions, drawn from the registries themselves, and what the properties do with them.

`compositions()` is a hypothesis strategy of `ModelConfig`s of a few thousand parameters, of every stack.  A composition
that is refused with `ConfigError` is discarded.  When a property fails, the composition is printed as YAML, to be put
into a file for `sublayer check`.

`law(...)` makes a property into a test: few fixed examples in an ordinary run, many random ones under `-m slow`.
"""

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import pytest
import torch
import yaml
from hypothesis import given, note, reject, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from sublayer.data.objective import OBJECTIVES
from sublayer.errors import ConfigError
from sublayer.model import Layout, ModelConfig, Source, Transformer
from sublayer.model.experts import ExpertsConfig
from sublayer.model.position.fire import Fire
from sublayer.model.resolution import CROSS, LAYER_FIELDS
from sublayer.registry import PartConfig, Registry
from sublayer.run import RunConfig
from tests.properties.drawing import BLOBS, LONGEST, SEED_BYTES, Choices
from tests.properties.tally import Tally

VOCAB_SIZE = 11
N_CLASSES = 3
MAX_LENGTH = LONGEST

Examples = st.SearchStrategy[Any]
StackName = Literal["decoder", "encoder", "encoder_decoder"]

OWN_WAY = {"n_layers", "position", "head", "dropout", "stochastic_depth", "layers", "encoder", CROSS, *LAYER_FIELDS}
OWN_WAY |= {"stack", "vocab_size", "d_model", "max_length", "initialisation"}
"""Keys of a model that are not drawn as an option of a part is: present or not, with any value."""

DIRECTIONS = {"decoder": {"causal"}, "encoder": {"bidirectional"}, "encoder_decoder": {"causal", "bidirectional"}}
"""What a part of all layers of a stack must be defined for."""

# -------------------------------------------------------------------------------------------------------- compositions


@st.composite
def parts(draw: st.DrawFn, registry: Registry[Any]) -> Any:
    """A part's config, of one registry."""
    try:
        return registry.parse(Choices(draw(BLOBS)).part("part", registry))
    except (ValidationError, PydanticCustomError):
        reject()


@st.composite
def compositions(
    draw: st.DrawFn,
    *,
    stack: StackName | tuple[StackName, ...] | None = None,
    by_token: bool | None = True,
    dropout: bool = False,
    fixed: dict[str, Any] | None = None,
    tally: Tally | None = None,
) -> ModelConfig:
    """A legal composition of registered parts, of a few thousand parameters.

    Args:
        stack: only this one, or one of these; left out, any.
        by_token: whether the head has something to tell of each token; None for either.
        dropout: let dropout and stochastic depth be drawn too; without, they are 0 everywhere.
        fixed: keys of `ModelConfig` that are given and not drawn.
        tally: what to count it in.
    """
    choices = Choices(draw(BLOBS), dropout)
    try:
        config = ModelConfig.parse(tree_of(choices, stack, by_token, fixed or {}))
    except ConfigError as error:
        if tally is not None:
            tally.refuse(str(error))
        reject()
    if tally is not None:
        tally.count(config)
    note(AsYaml(config))
    return config


def composition_of(seed: int, fixed: dict[str, Any] | None = None) -> ModelConfig:
    """A legal composition by its number, without hypothesis.

    Args:
        seed: the number.
        fixed: keys of `ModelConfig` that are given and not drawn.
    """
    bytes_of = random.Random(seed).randbytes
    while True:
        choices = Choices(bytes_of(SEED_BYTES + 64), dropout=True)
        with suppress(ConfigError):
            return ModelConfig.parse(tree_of(choices, None, None, fixed or {}))


def tree_of(choices: Choices, stack: Any, by_token: bool | None, fixed: dict[str, Any]) -> dict[str, Any]:
    """A model's config, legal or not, as plain values."""
    stacks = (stack,) if isinstance(stack, str) else stack or ("decoder", "encoder", "encoder_decoder")
    families = {name: _registry(name) for name in LAYER_FIELDS}
    stack = choices.choose("stack", stacks)
    choices.directions = DIRECTIONS[stack]
    tree: dict[str, Any] = {
        "stack": stack,
        "vocab_size": VOCAB_SIZE,
        "d_model": choices.choose("d_model", [8, 16, 16, 16, 32, 12]),
        "n_layers": choices.choose("n_layers", [1, 2, 2, 3]),
        "max_length": MAX_LENGTH,
        # Values as large as a trained model's: with the usual 0.02 a wrong mask would hardly be seen in the logits.
        "initialisation": {
            "std": None,
            "embedding_std": 1.0,
            "depth_scaled": choices.choose("depth_scaled", [False, True]),
        },
        "dropout": choices.choose("dropout", [0.0, 0.1]) if choices.dropout else 0.0,
        "stochastic_depth": choices.choose("stochastic_depth", [0.0, 0.0, 0.0, 0.3]) if choices.dropout else 0.0,
    }
    # What classes there are is not told of pairs of texts: no objective trains that.
    tree["head"] = _head(choices, True if tree["stack"] == "encoder_decoder" else by_token)
    tree |= {name: choices.part(name, registry) for name, registry in families.items()}
    tree |= {
        name: choices.option(name, name, field)
        for name, field in ModelConfig.model_fields.items()
        if name not in OWN_WAY and choices.there(name)
    }
    tree |= fixed
    if tree["stack"] == "encoder_decoder":
        # Its encoder first, which has layers without a cross-attention.
        if "encoder" not in fixed:
            choices.directions = DIRECTIONS["encoder"]
            tree["encoder"] = _encoder(choices, tree, families)
            choices.directions = DIRECTIONS["decoder"]
        across = [part for part in families["attention"] if part.crosses]
        attends = families["attention"].expand(tree["attention"])["kind"]
        wanted = attends not in [part.kind_name() for part in across] or choices.there(CROSS)
        if wanted and CROSS not in fixed:
            tree[CROSS] = choices.among(CROSS, across)
        families = families | {CROSS: families["attention"]}
    if "layers" not in fixed:
        tree["layers"] = _layers(choices, "layers", tree, families)
    return tree


def _head(choices: Choices, by_token: bool | None) -> Any:
    registry = _registry("head")
    # Most statements are about tokens, so most heads are.
    wanted = choices.choose("head.by_token", [True] * 5 + [False]) if by_token is None else by_token
    head = registry.expand(choices.among("head", [part for part in registry if part.by_token == wanted]))
    if wanted:
        return head
    names = head.pop("classes", [])
    return head | ({"classes": names, "n_classes": len(names)} if len(names) > 1 else {"n_classes": N_CLASSES})


def _encoder(choices: Choices, tree: dict[str, Any], families: dict[str, Registry[Any]]) -> dict[str, Any]:
    """What an encoder has other than the decoder beside it."""
    change = _overrides(choices, "encoder", tree, families)
    if choices.there("encoder.n_layers"):
        change["n_layers"] = choices.choose("encoder.n_layers", [1, 2])
    own = {name: _overridden(tree[name], change.get(name), registry) for name, registry in families.items()}
    layers = _layers(choices, "encoder.layers", own, families)
    return change | ({"layers": layers} if layers else {})


def _layers(
    choices: Choices, path: str, base: dict[str, Any], families: dict[str, Registry[Any]]
) -> list[dict[str, Any]]:
    n_overrides = choices.choose(path, [1, 2, 2]) if choices.there(path) else 0
    return [_overrides(choices, f"{path}.{i}", base, families) for i in range(n_overrides)]


def _overrides(choices: Choices, path: str, base: dict[str, Any], families: dict[str, Registry[Any]]) -> dict[str, Any]:
    """What a layer, or an encoder, chooses for itself: another part, or some options of the same."""
    change: dict[str, Any] = {}
    for name, registry in families.items():
        here = f"{path}.{name}"
        if base.get(name) is None or not choices.there(here):
            continue
        # What belongs to the whole stack is refused in a layer; mostly, so that many are legal, a layer leaves it.
        whole = choices.choose(f"{here}.whole", [True, *[False] * 7])
        if choices.choose(f"{here}.another", [True, False]):
            change[name] = choices.among(here, [part for part in registry if whole or not _is_whole(part)])
        elif whole or not _is_whole(registry[_kind(registry, base[name])]):
            change[name] = choices.options(here, registry[_kind(registry, base[name])])
    return change


def _is_whole(part: type[PartConfig]) -> bool:
    return getattr(part, "embeds", False) or getattr(part, "whole_stack", False)


def _overridden(base: Any, change: Any, registry: Registry[Any]) -> Any:
    """What stands when one choice is put over another, as far as its kind goes."""
    return base if change is None or (isinstance(change, dict) and "kind" not in change) else change


def _kind(registry: Registry[Any], value: Any) -> str:
    kind: str = registry.expand(value, default_kind=registry.default_kind)["kind"]
    return kind


def _registry(field: str) -> Registry[Any]:
    part = ModelConfig.model_fields[field].annotation
    assert isinstance(part, type) and issubclass(part, PartConfig)
    return part.registry


def as_yaml(config: ModelConfig) -> str:
    """A composition as a file for `sublayer check`, with an objective that fits it."""
    tree = {"model": config.tree()}
    for objective in [*(part.kind_name() for part in OBJECTIVES), {"kind": "classify", "label": "domain"}]:
        tree["data"] = {"sequence_length": MAX_LENGTH // 2, "objective": objective}
        with suppress(ConfigError):
            RunConfig.parse(tree)
            break
    return yaml.safe_dump(tree, sort_keys=False)


class AsYaml:
    """For hypothesis to print, which it does of failures only."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(as_yaml(self.config))


# -------------------------------------------------------------------------------------------------------------- models


def lively(config: ModelConfig, seed: int = 0) -> Transformer:
    """The model in float64, with its constants (biases of 0, scales of 1) disturbed, so that all of them count.

    It is in evaluation mode, as there are parts that draw positions in training.
    """
    model = Transformer(config, seed).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return model


def keeps_input(config: ModelConfig) -> bool:
    """Whether what stands at a token surely reaches its logits; else sublayers may pass on next to nothing of it."""
    return all(layer.residual.keeps_input for layer in config.all_layers())


def is_felt(config: ModelConfig, logits: Tensor) -> bool:
    """Whether what stands at a token surely counts in its logits: it reaches them, and not all of them are so near the
    head's cap that they rest there whatever changes."""
    cap = getattr(config.head, "soft_cap", None)
    return keeps_input(config) and (cap is None or bool((logits.abs() < 0.99 * cap).any()))


def mixtures(config: ModelConfig) -> list[ExpertsConfig]:
    """The feed-forwards of layers with experts."""
    found = (layer.feed_forward for layer in config.all_layers())
    return [each for each in found if isinstance(each, ExpertsConfig)]


def drops_tokens(config: ModelConfig) -> bool:
    """Whether experts leave out tokens outside of training as well, by what stands beside them in the batch."""
    return any(each.capacity is not None and each.capacity.evaluation_factor for each in mixtures(config))


def without_effect(model: Transformer) -> set[int]:
    """Position encodings, by number, whose layers show a query itself alone, or whose few units may all be off."""
    layers = enumerate(model.config.resolve())
    direction = model.config.shape.direction
    wide = {model._position_of[n] for n, layer in layers if layer.attention.seen(direction).n_pairs(2) > 2}
    narrow = {n for n, each in enumerate(model.positions) if isinstance(each, Fire) and each.config.width < 8}
    return narrow | set(range(len(model.positions))) - wide


def random_tokens(seed: int, *shape: int) -> Tensor:
    return torch.randint(0, VOCAB_SIZE, shape, generator=torch.Generator().manual_seed(seed))


def source_for(model: Transformer, n_rows: int, length: int = 5) -> Tensor | None:
    """Tokens [B, S] for the encoder of an encoder-decoder to read; None for the other stacks."""
    return None if model.encoder is None else random_tokens(9, n_rows, length)


def logits_alone(
    model: Transformer, tokens: list[int], positions: list[int] | None = None, source: list[int] | None = None
) -> Tensor:
    """The logits [T, V] of one document (of a head over classes [C]) in a pass of its own: no cache, no padding,
    nothing beside it."""
    layout = None if positions is None or positions == list(range(len(tokens))) else Layout(torch.tensor([positions]))
    read = None if source is None else Source(torch.tensor([source]))
    logits = model(torch.tensor([tokens]), layout, source=read).logits
    assert logits is not None
    return logits[0]


class Kept:
    """The outputs of `module`, listed as it runs, each of which keeps its gradient, until `remove`."""

    def __init__(self, module: nn.Module) -> None:
        self.outputs: list[Tensor] = []
        self._handle = module.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        output.retain_grad()
        self.outputs.append(output)

    def remove(self) -> None:
        self._handle.remove()


def gradients(model: Transformer, score: Tensor) -> dict[str, Tensor]:
    """The gradient of `score` by parameter name; zeros where there is none."""
    model.zero_grad(set_to_none=True)
    score.backward()  # type: ignore[no-untyped-call]
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in model.named_parameters()
    }


def assert_equal_gradients(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Equal up to rounding, on the scale of the largest gradient of all (0 where a soft cap is reached everywhere)."""
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        assert actual[name].isfinite().all(), f"{name} has a gradient that is not finite"
        torch.testing.assert_close(
            actual[name], gradient, rtol=0, atol=1e-5 * scale, msg=lambda text, name=name: f"{name}: {text}"
        )


def assert_equal_logits(actual: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    """Equal up to rounding: models are in float64, but positions turn and shift in float32."""
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=atol)


# ---------------------------------------------------------------------------------------------------------------- laws


def examine(check: Callable[..., None], n_examples: int, fixed: bool, **strategies: Examples) -> None:
    """Runs a check on random examples; `fixed` for the same ones every time."""
    settings(max_examples=n_examples, derandomize=fixed)(given(**strategies)(check))()


def law(examples: int = 50, **strategies: Examples) -> Callable[[Callable[..., None]], Callable[[int], None]]:
    """Makes a check into a test over random examples: few fixed ones by default, twenty times as many with `-m slow`.

    Args:
        examples: how many in an ordinary run.
        strategies: of the check's arguments, by name.
    """

    def decorate(check: Callable[..., None]) -> Callable[[int], None]:
        @pytest.mark.parametrize("times", FEW_AND_MANY)
        def test(times: int) -> None:
            examine(check, examples * times, fixed=times == 1, **strategies)

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


FEW_AND_MANY = [pytest.param(1, id="few"), pytest.param(20, id="many", marks=pytest.mark.slow)]
"""How many times as many examples: of a parameter `times`, for tests with other parameters besides."""
