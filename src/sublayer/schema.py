"""The JSON schema of a run's YAML file, with which editors complete keys, show what they mean, and mark mistakes.

Pydantic describes the configs; here that is widened to all that their reader takes: words for parts, `null`, a part
alone where a list of them may stand, and layers that change parts of what they are given.
"""

from typing import Any

from sublayer.model.config import ModelConfig
from sublayer.model.resolution import CROSS, LAYER_FIELDS
from sublayer.registry import FAMILY, PartConfig, Registry
from sublayer.run import RunConfig

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
"""What pydantic calls a bound on a number that it reads in a way of ours, and what the dialect calls it."""

Schema = dict[str, Any]


def run_schema() -> Schema:
    """The schema of a run's config with every part that is registered now, as JSON values (draft 2020-12)."""
    definitions: Schema = {}
    described = _taken(RunConfig.model_json_schema(), definitions, "")
    for family, registry in Registry.families.items():
        definitions[family] = _family(registry, definitions, change=False)
        definitions[_change(family)] = _family(registry, definitions, change=True)
    plugins = described["properties"]["plugins"]
    described["properties"]["plugins"] = _alone({"type": "string"}, plugins)
    model = definitions[ModelConfig.__name__]["properties"]
    model["layers"]["items"] = _changes(*LAYER_FIELDS, CROSS)
    encoder = _changes(*LAYER_FIELDS)
    encoder["properties"] |= {
        "n_layers": model["n_layers"],
        "layers": model["layers"] | {"items": _changes(*LAYER_FIELDS)},
    }
    model["encoder"] = {**encoder, "description": model["encoder"]["description"]}
    used = _used(described, definitions)
    kept = {name: definitions[name] for name in sorted(used)}
    return {"$schema": DIALECT, **described, "title": "A run of sublayer", "$defs": kept}


def _changes(*fields: str) -> Schema:
    """Changes to some choices of a layer."""
    properties = {name: {"$ref": f"#/$defs/{_change('attention' if name == CROSS else name)}"} for name in fields}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _family(registry: Registry[Any], definitions: Schema, change: bool) -> Schema:
    """A choice of a part: a word, or a mapping.

    Args:
        change: of a part that stands there already: then `kind` may be left out, and other options with it.
    """
    words = [
        {"const": word, "description": part.summary() + ("" if word == part.kind_name() else f" ({part.kind_name()})")}
        for word, part in sorted(registry.words().items())
    ]
    mappings = []
    for part in registry:
        # By family, as two of them may have a kind, and a class, of the same name.
        name = f"{registry.family}.{part.kind_name()}{'.change' if change else ''}"
        definitions[name] = _mapping(part, definitions, change)
        mappings.append({"$ref": f"#/$defs/{name}"})
    null = [{"type": "null", "description": "the same as none"}] if "none" in registry else []
    return {"anyOf": [*words, *null, *mappings]}


def _mapping(part: type[PartConfig], definitions: Schema, change: bool) -> Schema:
    """A part as a mapping of its options."""
    schema = _taken(part.model_json_schema(), definitions, _change("") if change else "")
    schema["properties"]["kind"] = {
        "enum": [part.kind_name(), *part.shorthands],
        "description": f"{part.summary()}.{f' {part.paper}.' if part.paper else ''}",
    }
    may_be_left_out = change or part.registry.default_kind == part.kind_name()
    required = [name for name in schema.pop("required", []) if not change and name != "kind"]
    required += [] if may_be_left_out else ["kind"]
    return schema | ({"required": required} if required else {})


def _taken(schema: Schema, definitions: Schema, suffix: str) -> Schema:
    """A schema of pydantic's in our words; what it defines beside it is put to the definitions."""
    beside = schema.pop("$defs", {})
    for name, definition in beside.items():
        definitions.setdefault(name, _worded(definition, suffix))
    worded: Schema = _worded(schema, suffix)
    return worded


def _worded(value: Any, suffix: str) -> Any:
    if isinstance(value, list):
        return [_worded(item, suffix) for item in value]
    if not isinstance(value, dict):
        return value
    if FAMILY in value:
        beside = {key: value[key] for key in ("default", "description") if key in value}
        return {"$ref": f"#/$defs/{value[FAMILY]}{suffix}"} | _worded(beside, suffix)
    worded: Schema = {}
    for key, item in value.items():
        if key == "properties":  # whose keys are names and no words of the schema's
            worded[key] = {name: _worded(below, suffix) for name, below in item.items()}
        elif key == "default":
            worded[key] = item
        elif key == "description":
            worded[key] = " ".join(item.split("\n\n")[0].split())
        elif key != "title":  # which says the key again
            worded[_BOUNDS.get(str(key), str(key))] = _worded(item, suffix)
    if worded.get("type") != "array":
        return worded
    if "minLength" in worded:  # pydantic's word for a list that it reads in a way of ours
        worded["minItems"] = worded.pop("minLength")
    return _alone(worded["items"], worded) if "$ref" in worded.get("items", {}) else worded


def _alone(item: Schema, array: Schema) -> Schema:
    """An array, or one item by itself."""
    outside = {key: array.pop(key) for key in ("default", "description") if key in array}
    return outside | {"anyOf": [item, array]}


def _change(family: str) -> str:
    return f"{family}_change"


def _used(schema: Any, definitions: Schema) -> set[str]:
    """The definitions that a schema refers to, and those that they do."""
    used: set[str] = set()

    def look(value: Any) -> None:
        if isinstance(value, list):
            for item in value:
                look(item)
        elif isinstance(value, dict):
            name = str(value.get("$ref", "")).removeprefix("#/$defs/")
            if name and name not in used:
                used.add(name)
                look(definitions[name])
            for item in value.values():
                look(item)

    look(schema)
    return used
