"""Random legal compositions, drawn from the registries themselves, and what the properties do with them.

`compositions()` is a hypothesis strategy of `ModelConfig`s of a few thousand parameters.  Each part's options are read
from the fields of its registered config class, so a part that is registered tomorrow, by a plug-in too, is drawn
without a change here.  A composition that is refused with `ConfigError` is discarded and counted.  When a property
fails, the composition is printed as YAML.

`law(...)` makes a property into a test: few fixed examples in an ordinary run, many random ones under `-m slow`.
"""

import random
import re
import types
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import annotated_types
import pytest
import torch
import yaml
from hypothesis import given, note, reject, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from sublayer.config import Config
from sublayer.errors import ConfigError
from sublayer.model import Layout, ModelConfig, Transformer
from sublayer.model.position.fire import Fire
from sublayer.model.resolution import LAYER_FIELDS
from sublayer.registry import PartConfig, Registry

VOCAB_SIZE = 11
MAX_LENGTH = 48
LONGEST_INT = 6
"""The largest value drawn for an integer option: windows, head counts and widths stay small."""

Examples = st.SearchStrategy[Any]
SEEDS = st.integers(0, 2**32 - 1)
T = TypeVar("T")


# ---------------------------------------------------------------------------------------------------------- the tally


class Tally:
    """How many compositions were drawn, how many were legal, why the others were refused, and which parts appeared."""

    def __init__(self) -> None:
        self.drawn = 0
        self.legal = 0
        self.refused: Counter[str] = Counter()
        self.parts: Counter[str] = Counter()

    def as_tree(self) -> dict[str, Any]:
        return {
            "drawn": self.drawn,
            "legal": self.legal,
            "refused": dict(self.refused),
            "parts": dict(self.parts),
        }

    def add(self, tree: dict[str, Any]) -> None:
        self.drawn += tree["drawn"]
        self.legal += tree["legal"]
        self.refused.update(tree["refused"])
        self.parts.update(tree["parts"])

    def count(self, config: ModelConfig) -> None:
        self.legal += 1
        layers = config.resolve()
        found = {
            (part.registry.family, part.kind_name()) for layer in layers for _, part in layer.parts()
        }  # once a composition, however many layers have it
        self.parts.update(f"{family} {kind}" for family, kind in found)
        self.parts[f"stack {config.stack}"] += 1
        self.parts["embeddings tied" if config.tied_embeddings else "embeddings untied"] += 1
        self.parts.update({f"kernel {getattr(layer.attention, 'kernel', 'its own')}" for layer in layers})
        if len(set(layers)) > 1:
            self.parts["layers unequal"] += 1

    def lines(self) -> Iterable[str]:
        yield f"{self.drawn} drawn, {self.legal} legal ({self.legal / max(1, self.drawn):.0%})"
        for family, names in _grouped(self.parts).items():
            yield f"{family}: " + ", ".join(f"{name} {count}" for name, count in names)
        for reason, count in self.refused.most_common():
            yield f"refused {count}: {reason}"


def _grouped(parts: Counter[str]) -> dict[str, list[tuple[str, int]]]:
    groups: dict[str, list[tuple[str, int]]] = {}
    for name, count in sorted(parts.items()):
        family, _, kind = name.partition(" ")
        groups.setdefault(family, []).append((kind, count))
    return groups


TALLY = Tally()


# ------------------------------------------------------------------------------------------------- options from fields


class Source:
    """Where choices come from.

    *Which value* follows from a seed and the choice's own path, evenly over all values (hypothesis by itself prefers
    small and repeated ones); *whether a key is there at all* is hypothesis's to decide, so that a failing composition
    shrinks, key by key, to the defaults.
    """

    def __init__(self, draw: st.DrawFn, seed: int, dropout: bool = False) -> None:
        self.draw, self.seed, self.dropout = draw, seed, dropout

    def choose(self, path: str, values: Sequence[T]) -> T:
        return random.Random(f"{self.seed} {path}").choice(values)

    def there(self) -> bool:
        return self.draw(st.booleans())

    def part(self, path: str, registry: Registry[Any]) -> Any:
        """A choice from a registry as it may stand in YAML: a word, or a mapping with some of its options."""
        # The registry is read now, with what plug-ins have added.
        chosen = self.choose(f"{path}.kind", list(registry))
        word = self.choose(f"{path}.word", [chosen.kind_name(), *chosen.shorthands])
        if self.choose(f"{path}.shape", [True, False, False, False]):
            return word
        return {"kind": word} | self.options(path, chosen)

    def options(self, path: str, chosen: type[Config]) -> dict[str, Any]:
        """Some of the options of a part or of another config."""
        return {
            name: self.option(f"{path}.{name}", name, field)
            for name, field in chosen.model_fields.items()
            if name != "kind" and (field.is_required() or self.there())
        }

    def option(self, path: str, name: str, field: FieldInfo) -> Any:
        """A value for one field of a part's config."""
        if name == "dropout":
            return self.choose(path, [0.0, 0.1, 0.5]) if self.dropout else 0.0
        return self._value(path, field.annotation, list(field.metadata), field.default)

    def _value(self, path: str, annotation: Any, metadata: list[Any], default: Any) -> Any:
        origin = get_origin(annotation)
        if origin is Annotated:
            inner, *more = get_args(annotation)
            return self._value(path, inner, [*metadata, *more], default)
        if origin is Literal:
            return self.choose(path, get_args(annotation))
        if origin is tuple:
            length = self.choose(f"{path}.length", range(1, LONGEST_INT))
            return [self._value(f"{path}[{n}]", get_args(annotation)[0], [], None) for n in range(length)]
        if origin in (Union, types.UnionType):
            return self._value(path, self.choose(f"{path}|", get_args(annotation)), metadata, default)
        if annotation is type(None):
            return None
        if annotation is bool:
            return self.choose(path, [False, True])
        if annotation is int:
            low, high = _bounds(metadata)
            return self.choose(path, range(int(low or 0), LONGEST_INT + 1 if high is None else int(high) + 1))
        if annotation is float:
            low, high = _bounds(metadata)
            middle = default if isinstance(default, float) else 1.0
            near = [middle, middle / 2, middle / 4, middle * 2]
            return self.choose(path, [x for x in near if (low is None or x > low) and (high is None or x <= high)])
        if isinstance(annotation, type) and issubclass(annotation, PartConfig):
            return self.part(path, annotation.registry)
        if isinstance(annotation, type) and issubclass(annotation, Config):
            return self.options(path, annotation)
        raise TypeError(f"{path}: no way is known to draw a {annotation}; add it to tests/properties/composition.py")


def _bounds(metadata: list[Any]) -> tuple[float | None, float | None]:
    """The lowest and highest value that the constraints of a field allow (open bounds are kept off by the callers)."""
    flat: list[Any] = []
    for item in metadata:
        flat.extend(item.metadata if isinstance(item, FieldInfo) else [item])
    low = [float(x.ge) for x in flat if isinstance(x, annotated_types.Ge)]
    low += [float(x.gt) for x in flat if isinstance(x, annotated_types.Gt)]
    high = [float(x.le) for x in flat if isinstance(x, annotated_types.Le)]
    high += [float(x.lt) for x in flat if isinstance(x, annotated_types.Lt)]
    return max(low, default=None), min(high, default=None)


# -------------------------------------------------------------------------------------------------------- compositions


@st.composite
def parts(draw: st.DrawFn, registry: Registry[Any]) -> Any:
    """A part's config, of one registry."""
    try:
        return registry.parse(Source(draw, draw(SEEDS)).part("part", registry))
    except (ValidationError, PydanticCustomError):
        reject()


@st.composite
def compositions(
    draw: st.DrawFn,
    *,
    stack: Literal["decoder", "encoder"] | None = None,
    dropout: bool = False,
    fixed: dict[str, Any] | None = None,
) -> ModelConfig:
    """A legal composition of registered parts, of a few thousand parameters.

    Args:
        stack: only this one; left out, both.
        dropout: let dropout be drawn too; without, it is 0 everywhere.
        fixed: keys of `ModelConfig` that are given and not drawn.
    """
    source = Source(draw, draw(SEEDS), dropout)
    families = {name: _registry(name) for name in LAYER_FIELDS}
    tree: dict[str, Any] = {
        "stack": stack or source.choose("stack", ["decoder", "encoder"]),
        "vocab_size": VOCAB_SIZE,
        "d_model": source.choose("d_model", [8, 12, 16]),
        "n_layers": draw(st.sampled_from([1, 2, 2, 3])),
        "max_length": MAX_LENGTH,
        "tied_embeddings": source.choose("tied_embeddings", [False, True]),
        # Values as large as a trained model's: with the usual 0.02 a wrong mask would hardly be seen in the logits.
        "initialisation": {
            "std": None,
            "embedding_std": 1.0,
            "depth_scaled": source.choose("depth_scaled", [False, True]),
        },
        "dropout": source.choose("dropout", [0.0, 0.1]) if dropout else 0.0,
    }
    tree |= {name: source.part(name, registry) for name, registry in families.items()}
    n_overrides = source.choose("layers", [0, 1, 2, 2])
    tree["layers"] = [_overrides(source, f"layers.{i}", tree, families) for i in range(n_overrides)]
    tree |= fixed or {}
    TALLY.drawn += 1
    try:
        config = ModelConfig.parse(tree)
    except ConfigError as error:
        TALLY.refused[_reason(str(error))] += 1
        reject()
    TALLY.count(config)
    note(as_yaml(config))
    return config


def _registry(field: str) -> Registry[Any]:
    part = ModelConfig.model_fields[field].annotation
    assert isinstance(part, type) and issubclass(part, PartConfig)
    return part.registry


def _overrides(source: Source, path: str, base: dict[str, Any], families: dict[str, Registry[Any]]) -> dict[str, Any]:
    """What one layer chooses for itself: another part, or some options of the same."""
    change: dict[str, Any] = {}
    for name, registry in families.items():
        here = f"{path}.{name}"
        if not source.there():
            continue
        if source.choose(f"{here}.another", [True, False]):
            change[name] = source.part(here, registry)
        else:
            change[name] = source.options(here, registry[registry.expand(base[name])["kind"]])
    return change


def _reason(message: str) -> str:
    """A refusal without its place and its numbers, so that like ones are counted together."""
    return re.sub(r"\d+", "N", re.sub(r"^[\w.\[\]]+: ", "", message))


def as_yaml(config: ModelConfig) -> str:
    return yaml.safe_dump({"model": config.tree()}, sort_keys=False)


# -------------------------------------------------------------------------------------------------------------- models


def lively(config: ModelConfig, seed: int = 0) -> Transformer:
    """The model in float64, with its constants (biases of 0, scales of 1) disturbed, so that all of them count.

    In evaluation, as parts may be random in training by what they are and not by a probability that is 0 here.
    """
    model = Transformer(config, seed).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return model


def keeps_input(config: ModelConfig) -> bool:
    """Whether what stands at a token surely reaches its logits; else sublayers may pass on next to nothing of it."""
    return all(layer.residual.keeps_input for layer in config.resolve())


def without_effect(model: Transformer) -> set[int]:
    """Position encodings, by number, whose layers show a query itself alone, or whose few units may all be off."""
    layers = enumerate(model.config.resolve())
    direction = model.config.shape.direction
    wide = {model._position_of[n] for n, layer in layers if layer.attention.seen(direction).n_pairs(2) > 2}
    narrow = {n for n, each in enumerate(model.positions) if isinstance(each, Fire) and each.config.width < 8}
    return narrow | set(range(len(model.positions))) - wide


def random_tokens(seed: int, *shape: int) -> Tensor:
    return torch.randint(0, VOCAB_SIZE, shape, generator=torch.Generator().manual_seed(seed))


def logits_alone(model: Transformer, tokens: list[int], positions: list[int] | None = None) -> Tensor:
    """The logits [T, V] of one document in a pass of its own: no cache, no padding, nothing beside it."""
    layout = None if positions is None or positions == list(range(len(tokens))) else Layout(torch.tensor([positions]))
    logits = model(torch.tensor([tokens]), layout).logits
    assert logits is not None
    return logits[0]


def keep_gradient(module: nn.Module) -> list[Tensor]:
    """The outputs of `module`, to be listed as it runs, each of which keeps its gradient."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        output.retain_grad()
        outputs.append(output)

    module.register_forward_hook(keep)
    return outputs


def gradients(model: Transformer, score: Tensor) -> dict[str, Tensor]:
    """The gradient of `score` by parameter name; zeros where there is none."""
    model.zero_grad(set_to_none=True)
    score.backward()  # type: ignore[no-untyped-call]
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in model.named_parameters()
    }


def assert_equal_gradients(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Equal up to rounding, on the scale of the largest gradient of all."""
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    assert scale > 0
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
