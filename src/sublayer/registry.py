"""Named choices: a part's config, and the registry that turns `position: alibi` into one.

A *part* is a config class with a `kind` literal, kept in the registry of its family (position, attention, pattern, …).
Unions in the config tree are read from the registry when a value is validated, so a part registered by a plug-in is at
once accepted in YAML, listed by `sublayer parts` and published in the JSON schema.
"""

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast, get_args

from pydantic import GetPydanticSchema
from pydantic_core import PydanticCustomError, core_schema

from sublayer.config import Config, suggest
from sublayer.errors import ConfigError


class PartConfig(Config):
    """A config with a `kind`, found by that name in the registry of its family."""

    registry: ClassVar["Registry[Any]"]
    """The family's registry; set by each family's base class."""

    paper: ClassVar[str] = ""
    """Where the part comes from: authors, year, and the equation or section."""

    shorthands: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Words that stand for this kind with some options, such as `swiglu`."""

    @classmethod
    def kind_name(cls) -> str:
        """The literal that `kind` must be."""
        return cast(str, get_args(cls.model_fields["kind"].annotation)[0])

    @classmethod
    def summary(cls) -> str:
        """The first line of the docstring."""
        return (cls.__doc__ or "").strip().split("\n")[0].rstrip(".")

    @classmethod
    def abilities(cls) -> tuple[str, ...]:
        """What it can do and what it cannot, each in a few words; for lists of parts."""
        return ()

    def override(self, change: Any) -> "PartConfig":
        """This part with `change` applied: the same kind merges into it key by key, another kind replaces it.

        Args:
            change: a shorthand word, a mapping (its `kind` may be left out), or a config.
        """
        return cast(PartConfig, self.registry.parse(self._merged(change)))

    def _merged(self, change: Any) -> Any:
        """The values of `override`'s result, not yet validated, so that an error is placed by its whole path."""
        change = self.registry.expand(change, default_kind=self.kind_name())
        if isinstance(change, PartConfig) or change["kind"] != self.kind_name():
            return change
        values: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set}
        for key, value in change.items():
            current = getattr(self, key, None)
            try:
                values[key] = current._merged(value) if isinstance(current, PartConfig) else value
            except PydanticCustomError:
                values[key] = value  # refused again when it is validated, and then with its place in the tree
        return values | {"kind": self.kind_name()}


P = TypeVar("P", bound=PartConfig)

FAMILY = "x-family"
"""The key in a JSON schema by which a choice says which family it is from."""

_CONTENT = "__sublayer_content__"
"""Where a plug-in's module keeps the path and the bytes that it was run from."""


class Registry(Generic[P]):
    """The parts of one family by kind.

    Args:
        family: the word used in messages and on the command line, such as "position".
        default_kind: the kind a mapping without `kind` means, where the family has one.
    """

    families: ClassVar[dict[str, "Registry[Any]"]] = {}

    def __init__(self, family: str, default_kind: str | None = None) -> None:
        self.family = family
        self.default_kind = default_kind
        self._parts: dict[str, type[P]] = {}
        self._described = False
        Registry.families[family] = self

    def register(self, part: type[P]) -> type[P]:
        """Add a part; usable as a class decorator.

        Raises:
            ConfigError: when another part already has its kind or one of its shorthands.
        """
        for word in (part.kind_name(), *part.shorthands):
            holder = self.words().get(word)
            if holder is not None and _name(holder) != _name(part):  # of the same name: a file that is run again
                raise ConfigError(
                    f"the {self.family} '{word}' is registered twice, by {holder.__name__} and {part.__name__}."
                )
        self._parts[part.kind_name()] = part
        return part

    def __iter__(self) -> Iterator[type[P]]:
        return iter(self._parts[kind] for kind in sorted(self._parts))

    def __getitem__(self, kind: str) -> type[P]:
        return self._parts[kind]

    def __contains__(self, kind: str) -> bool:
        return kind in self._parts

    def words(self) -> dict[str, type[P]]:
        """Every word that names a part, kinds and shorthands."""
        words: dict[str, type[P]] = dict(self._parts)
        for part in self._parts.values():
            words.update(dict.fromkeys(part.shorthands, part))
        return words

    def expand(self, value: Any, default_kind: str | None = None) -> Any:
        """A shorthand or a mapping as a mapping with `kind`; a config stays as it is."""
        if isinstance(value, PartConfig):
            return value
        if value is None:
            value = "none"  # YAML's bare `none` is the text "none", but `null` and `~` mean the same here
        if isinstance(value, str):
            part = self.words().get(value)
            if part is None:
                raise self._unknown(value)
            return {"kind": part.kind_name(), **part.shorthands.get(value, {})}
        if not isinstance(value, Mapping):
            raise PydanticCustomError(
                "unknown_kind",
                "must be the name of {article} {family} or a mapping with 'kind', not {value}",
                {"article": self._article, "family": self.family, "value": repr(value)},
            )
        kind = value.get("kind", default_kind or self.default_kind)
        if kind is None:
            raise PydanticCustomError(
                "unknown_kind",
                "needs a 'kind'; {hint}",
                {"hint": suggest("", sorted(self._parts))},
            )
        part = self.words().get(kind) if isinstance(kind, str) else None
        if part is None:
            raise self._unknown(kind)
        return {**part.shorthands.get(kind, {}), **value, "kind": part.kind_name()}

    def parse(self, value: Any) -> P:
        """The part that `value` names (pydantic's errors; for use inside validation)."""
        value = self.expand(value)
        if isinstance(value, PartConfig):
            if type(value) not in self._parts.values():
                raise PydanticCustomError(
                    "unknown_kind",
                    "{name} is not a registered {family}; add it with sublayer.register",
                    {"name": type(value).__name__, "family": self.family},
                )
            return cast(P, value)
        return self._parts[value["kind"]].model_validate(value)

    @property
    def _article(self) -> str:
        return "an" if self.family[0] in "aeiou" else "a"

    def _unknown(self, kind: Any) -> PydanticCustomError:
        return PydanticCustomError(
            "unknown_kind",
            "'{kind}' is not {article} {family}; {hint}",
            {
                "kind": str(kind),
                "article": self._article,
                "family": self.family,
                "hint": suggest(str(kind), sorted(self.words())),
            },
        )

    def choice(self) -> GetPydanticSchema:
        """The annotation that makes a field a choice from this registry: `Annotated[Base, registry.choice()]`."""

        def schema(_source: Any, _handler: Any) -> core_schema.CoreSchema:
            return core_schema.no_info_plain_validator_function(
                self.parse,
                serialization=core_schema.plain_serializer_function_ser_schema(lambda part: part.tree()),
            )

        def json_schema(_schema: Any, handler: Any) -> dict[str, Any]:
            if self._described:  # by a part that holds another of its own family, which is described around it
                return {"enum": sorted(self.words()), FAMILY: self.family}
            self._described = True
            try:
                kinds = [handler(part.__pydantic_core_schema__) for part in self]
            finally:
                self._described = False
            return {"anyOf": [{"enum": sorted(self.words())}, *kinds], FAMILY: self.family}

        return GetPydanticSchema(schema, json_schema)


def _name(part: type[PartConfig]) -> tuple[str, str]:
    return part.__module__, part.__qualname__


def register(part: type[P]) -> type[P]:
    """Add your own part to the registry of its family; usable as a class decorator.

    Args:
        part: a subclass of a family's base config, such as `PositionConfig`, with a `kind` literal.

    Raises:
        ConfigError: when the class has no `kind`, or the kind is taken by another part.
    """
    if "kind" not in part.model_fields:
        raise ConfigError(f"{part.__name__} has no `kind: Literal[...]` field, so no config could name it.")
    return part.registry.register(part)


def load_plugin(path: Path) -> None:
    """Run a Python file that registers parts (`plugins: [my_part.py]`), once for a path and content.

    Raises:
        ConfigError: when the file is missing or fails while it runs.
    """
    path = path.resolve()
    if not path.is_file():
        raise ConfigError(f"plugins: there is no file {path}.")
    name = f"sublayer_plugin_{path.stem}"
    content = path.read_bytes()
    known = sys.modules.get(name)
    if known is not None and vars(known).get(_CONTENT) == (path, content):
        return
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    setattr(module, _CONTENT, (path, content))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except ConfigError:
        del sys.modules[name]
        raise
    except Exception as error:
        del sys.modules[name]
        first_line = (str(error).splitlines() or [""])[0].rstrip(".:")
        raise ConfigError(f"plugins: {path} failed with {type(error).__name__}: {first_line}.") from error
