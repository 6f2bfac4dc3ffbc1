"""The options of a config as data: what `sublayer parts` shows and the docs' tables are made from."""

from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sublayer.config import Config
from sublayer.registry import PartConfig


@dataclass(frozen=True)
class Option:
    """One key of a config.

    Attributes:
        name: the key.
        values: what it may be.
        default: what it is when left out; empty when it must be given.
        meaning: its docstring.
    """

    name: str
    values: str
    default: str
    meaning: str


def options(config: type[Config]) -> list[Option]:
    """The keys of a config class, `kind` left out."""
    return [
        Option(name, _values(field), _default(field), " ".join((field.description or "").split()))
        for name, field in config.model_fields.items()
        if name != "kind"
    ]


def _values(field: FieldInfo) -> str:
    """The type and the narrowest bounds, as in `number > 0, ≤ 0.5 or null`."""
    rules = _flat(field.metadata) + _flat_arguments(field.annotation)
    lower: list[tuple[Any, str]] = [(rule.ge, "≥") for rule in rules if isinstance(rule, Ge)]
    lower += [(rule.gt, ">") for rule in rules if isinstance(rule, Gt)]
    upper: list[tuple[Any, str]] = [(rule.le, "≤") for rule in rules if isinstance(rule, Le)]
    upper += [(rule.lt, "<") for rule in rules if isinstance(rule, Lt)]
    # Of equal bounds the strict one is the narrower.
    bounds = [max(lower, key=lambda bound: (bound[0], bound[1] == ">"))] if lower else []
    bounds += [min(upper, key=lambda bound: (bound[0], bound[1] != "<"))] if upper else []
    text, *null = _type(field.annotation).split(" or null")
    return f"{text} {', '.join(f'{sign} {value:g}' for value, sign in bounds)}".rstrip() + (" or null" if null else "")


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(str(value) for value in arguments)
    if origin in (Union, UnionType):
        return " | ".join(_type(argument) for argument in arguments if argument is not NoneType) + (
            " or null" if NoneType in arguments else ""
        )
    if origin is tuple:
        return f"[{_type(arguments[0])}, …]" if Ellipsis in arguments else f"[{', '.join(map(_type, arguments))}]"
    if origin is not None and arguments:  # Annotated, and generics such as dict
        return _type(arguments[0]) if hasattr(annotation, "__metadata__") else "mapping"
    if isinstance(annotation, type):
        if issubclass(annotation, PartConfig):
            family = annotation.registry.family.replace("_", "-")
            return f"{'an' if family[0] in 'aeiou' else 'a'} {family}"
        if issubclass(annotation, Config):
            return "mapping"
    return {int: "integer", float: "number", bool: "true | false", str: "text"}.get(annotation, "mapping")


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return ""
    return _shown(field.default)


def _shown(value: Any) -> str:
    if isinstance(value, PartConfig):
        return value.kind_name()
    if isinstance(value, Config):
        return "as listed"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return (
        {None: "null", True: "true", False: "false"}.get(value, str(value))
        if isinstance(value, bool | NoneType)
        else str(value)
    )


def _flat(metadata: list[Any]) -> list[Any]:
    flat: list[Any] = []
    for rule in metadata:
        flat += _flat(list(rule.metadata)) if isinstance(rule, FieldInfo) else [rule]
    return flat


def _flat_arguments(annotation: Any) -> list[Any]:
    """The rules on the members of a union, as in `Count | None`."""
    if get_origin(annotation) not in (Union, UnionType):
        return []
    found: list[Any] = []
    for member in get_args(annotation):
        found += _flat(list(getattr(member, "__metadata__", ())))
    return found
