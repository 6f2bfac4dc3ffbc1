"""Values for the options of configs, drawn from the fields of their classes.

A part that is registered tomorrow, by a plug-in too, is drawn without a change here.
"""

import random
import types
import zlib
from collections.abc import Collection, Sequence
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import annotated_types
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from sublayer.config import Config
from sublayer.model.experts import ExpertsConfig
from sublayer.registry import PartConfig, Registry

T = TypeVar("T")

SEED_BYTES = 8

BLOBS = st.binary(min_size=64 + SEED_BYTES, max_size=64 + SEED_BYTES)
"""Everything that is random in a composition: a seed, and bytes that say which keys there are."""

USUALLY = {"n_heads"}
"""Options that a part is always drawn with: left out, so narrow a model would have a single head."""

LONGEST = 48
"""The longest sequence of a composition."""

COUNTS_OF_POSITIONS = {"max_position", "n_positions"}
"""Options that are refused below the longest sequence."""

EXPERTS = ("dense", "gated")
"""Feed-forwards that can be an expert."""

WITH = {"kept_groups": "groups", "dense": "first_dense"}
"""Options that mean something only where another one is there."""

SELDOM = {"first_dense", "every"}
"""Options by which none of few layers may have what the others are about."""

SMALL = range(1, 9)
"""What integers without an upper bound are drawn from: windows, head counts and widths stay small."""


class Choices:
    """Where choices come from.

    *Which value* follows from a seed and the choice's own path, evenly over all values (hypothesis by itself prefers
    small and repeated ones); *whether a key is there at all* is said by a byte of its own, so that hypothesis shrinks a
    failing composition, key by key, to the defaults.

    Args:
        blob: an example of `BLOBS`.  One draw a composition, since of several like ones hypothesis makes further
            examples by exchanging them, which would have the same seed.
        dropout: let dropout be drawn too.

    Attributes:
        directions: of the stacks that parts are drawn for.

    Sizes have to fit one another (heads divide widths, lists have a number for each pair of features), so in most
    compositions every integer is 1 or one other number, and every list has the same length.
    """

    def __init__(self, blob: bytes, dropout: bool = False) -> None:
        self.seed, self._presence, self.dropout = blob[:SEED_BYTES], blob[SEED_BYTES:], dropout
        self._size = self.choose("size", [2, 2, 2, 4])
        self._loose = self.choose("loose", [True, False, False, False])
        self._length = self.choose("length", [1, 2, 2, 4])
        self.directions: set[str] = set()

    def choose(self, path: str, values: Sequence[T]) -> T:
        return random.Random(self.seed + path.encode()).choice(values)

    def there(self, path: str, mostly: bool = False) -> bool:
        return self._presence[zlib.crc32(path.encode()) % len(self._presence)] >= (32 if mostly else 128)

    def part(self, path: str, registry: Registry[Any]) -> Any:
        """A choice from a registry as it may stand in YAML: a word, or a mapping with some of its options."""
        return self.among(path, list(registry))  # read now, with what plug-ins have added

    def among(self, path: str, parts: Sequence[type[PartConfig]]) -> Any:
        """The same from some kinds of a registry; mostly from those that are defined for the stack."""
        if self._mostly(path):
            parts = [part for part in parts if self.directions <= set(getattr(part, "directions", self.directions))]
        chosen = self.choose(f"{path}.kind", [part for part in parts for _ in range(_weight(part))])
        word = self.choose(f"{path}.word", [chosen.kind_name(), *chosen.shorthands])
        if not USUALLY & set(chosen.model_fields) and self.choose(f"{path}.shape", [True, False, False, False]):
            return word
        return {"kind": word} | self.options(path, chosen, USUALLY)

    def options(self, path: str, chosen: type[Config], always: Collection[str] = ()) -> dict[str, Any]:
        """Some of the options of a part or of another config, those named in `always` among them."""
        values = {
            name: self.option(f"{path}.{name}", name, field)
            for name, field in chosen.model_fields.items()
            if name != "kind"
            and (field.is_required() or name in always or self._has(path, name, _registry(field) is not None))
        }
        return self._suited(path, values) if "router" in values and self._mostly(path) else values

    def _mostly(self, path: str) -> bool:
        return self.choose(f"{path}.mostly", [True] * 7 + [False])

    def _suited(self, path: str, values: dict[str, Any]) -> dict[str, Any]:
        """Experts with what has an effect with their router."""
        registry = Registry.families["router"]
        chosen = registry.expand(values["router"])
        router = registry[chosen["kind"]]
        n_experts = values.get("n_experts", ExpertsConfig.model_fields["n_experts"].default)
        top_k = values.get("top_k") or min(2, n_experts)
        idle = {
            "balance": not router.balances,
            "capacity": router.chooses != "token",
            "expert_dropout": not router.model_validate(chosen).spares(n_experts, top_k),
            "top_k": router.chooses == "none",
        }
        return {name: value for name, value in values.items() if not idle.get(name)}

    def _has(self, path: str, name: str, mostly: bool) -> bool:
        here = f"{path}.{name}"
        if name in WITH:
            return self._has(path, WITH[name], mostly=False)
        return self.there(here, mostly) and (name not in SELDOM or self.choose(f"{here}.seldom", [True, *[False] * 7]))

    def option(self, path: str, name: str, field: FieldInfo) -> Any:
        """A value for one field of a config."""
        if name == "dropout":
            return self.choose(path, [0.0, 0.1, 0.5]) if self.dropout else 0.0
        return self._value(path, name, field.annotation, list(field.metadata), field.default)

    def _value(self, path: str, name: str, annotation: Any, metadata: list[Any], default: Any) -> Any:
        origin = get_origin(annotation)
        if origin is Annotated:
            inner, *more = get_args(annotation)
            return self._value(path, name, inner, [*metadata, *more], default)
        if origin is Literal:
            return self.choose(path, get_args(annotation))
        if origin is tuple:
            members = self._members(annotation)
            return [self._value(f"{path}[{n}]", name, each, [], None) for n, each in enumerate(members)]
        if origin in (Union, types.UnionType):
            # A key that means nothing by default was drawn, so it is to mean something.
            members = [each for each in get_args(annotation) if each is not NoneType or default is not None]
            return self._value(path, name, self.choose(f"{path}|", members), metadata, default)
        if annotation is NoneType:
            return None
        if annotation is bool:
            return self.choose(path, [False, True])
        if annotation is str:
            return f"{name} {path[-2:]}"  # of several in a list, each another
        if annotation is int:
            return self._integer(path, name, metadata)
        if annotation is float:
            middle = default if isinstance(default, float) else 1.0
            near = [middle, middle, middle / 2, middle / 4, middle * 2]
            return self.choose(path, [x for x in near if _within(x, metadata)])
        if isinstance(annotation, type) and issubclass(annotation, PartConfig):
            if name == "expert":
                return self.among(path, [annotation.registry[kind] for kind in EXPERTS])
            return self.part(path, annotation.registry)
        if isinstance(annotation, type) and issubclass(annotation, Config):
            return self.options(path, annotation)
        raise TypeError(f"{path}: no way is known to draw a {annotation}; add it to tests/properties/drawing.py")

    def _integer(self, path: str, name: str, metadata: list[Any]) -> int:
        if name in SELDOM or name == "kept_groups":
            return self.choose(path, [1, 1, 1, 2])
        if name in COUNTS_OF_POSITIONS:
            return self.choose(path, [LONGEST, LONGEST + 16])
        upper = [int(rule.le) for rule in _rules(metadata) if isinstance(rule, annotated_types.Le)]
        free = [x for x in (range(min(upper) + 1) if upper else [0, *SMALL]) if _within(x, metadata)]
        size = self._size
        if name.startswith("d_"):  # normalised, a single number is 0; and of two, rotary positions have one pair only
            free, size = [x for x in free if x > 1], 2 * size
        fitting = [x for x in (1, *[size] * 4) if x in free and (x > 1 or name not in USUALLY)]
        return self.choose(path, fitting if fitting and not self._loose else free)

    def _members(self, annotation: Any) -> Sequence[Any]:
        """The types of a tuple's members."""
        members = get_args(annotation)
        return [members[0]] * self._length if members[-1] is Ellipsis else members


def _weight(part: type[PartConfig]) -> int:
    """How often a kind is drawn: more often where it has kinds of another family to choose from."""
    if len(getattr(part, "directions", ())) == 1:
        return 3
    inner = [_registry(field) for field in part.model_fields.values()]
    return min(5, max([1, *(2 * len(list(registry)) // 3 for registry in inner if registry is not None)]))


def _registry(field: FieldInfo) -> Registry[Any] | None:
    """The registry that a field's values come from, if they do."""
    for each in (field.annotation, *get_args(field.annotation)):
        each = get_args(each)[0] if get_origin(each) is Annotated else each
        if isinstance(each, type) and issubclass(each, PartConfig):
            return each.registry
    return None


def _within(value: float, metadata: list[Any]) -> bool:
    """Whether the constraints of a field allow a value."""
    for rule in _rules(metadata):
        if isinstance(rule, annotated_types.Ge) and not value >= rule.ge:
            return False
        if isinstance(rule, annotated_types.Gt) and not value > rule.gt:
            return False
        if isinstance(rule, annotated_types.Le) and not value <= rule.le:
            return False
        if isinstance(rule, annotated_types.Lt) and not value < rule.lt:
            return False
    return True


def _rules(metadata: list[Any]) -> list[Any]:
    return [rule for item in metadata for rule in (item.metadata if isinstance(item, FieldInfo) else [item])]
