"""The published schema: it takes what the reader of configs takes, and refuses what it refuses."""

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from sublayer.errors import ConfigError
from sublayer.model import ModelConfig
from sublayer.registry import Registry, load_plugin
from sublayer.run import RunConfig, presets, read_config, read_preset
from sublayer.schema import run_schema
from tests.properties.composition import compositions, law

ROOT = Path(__file__).parents[1]


@functools.cache
def validator(words: str) -> jsonschema.Draft202012Validator:
    """Of the schema with these words for parts."""
    return jsonschema.Draft202012Validator(run_schema())


def problems(values: Any) -> list[str]:
    words = str({family: sorted(registry.words()) for family, registry in Registry.families.items()})
    return [error.message for error in validator(words).iter_errors(values)]


def taken(values: dict[str, Any]) -> bool:
    """Whether the reader of configs takes them."""
    try:
        read_config(values)
    except ConfigError:
        return False
    return True


def test_it_is_a_schema_of_the_draft_that_it_names() -> None:
    schema = run_schema()
    assert schema["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]
    jsonschema.Draft202012Validator.check_schema(schema)
    text = json.dumps(schema)
    assert '"ge"' not in text  # pydantic's own word, which no editor knows
    assert "x-family" not in text


@pytest.mark.parametrize("name", presets())
def test_presets_are_valid_as_they_stand_and_complete(name: str) -> None:
    values = read_preset(name)
    assert problems(values) == []
    assert problems(RunConfig.parse(values).tree()) == []


def test_the_docs_example_is_valid() -> None:
    text = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    example = yaml.safe_load(text.split("```yaml", 1)[1].split("\n", 1)[1].split("```", 1)[0])
    assert "layers" in example["model"]
    assert problems(example) == []


@law(examples=60, composition=compositions(dropout=True))
def test_every_composition_is_valid(composition: ModelConfig) -> None:
    assert problems({"model": composition.tree()}) == []


GOOD: list[dict[str, Any]] = [
    {},
    {"version": 1, "model": {"position": "rope", "feed_forward": "swiglu"}},
    {"model": {"feed_forward": {"kind": "swiglu", "d_ff": 64}}},
    {"model": {"position": None, "feed_forward": None}},
    {"model": {"attention": {"n_heads": 2}}},
    {"model": {"layers": [{}, {"attention": {"pattern": {"kind": "window", "size": 8}}}]}},
    {"model": {"attention": {"pattern": "window"}, "layers": [{"attention": {"pattern": {"size": 8}}}, {}]}},
    {"model": {"layers": [{"feed_forward": {"d_ff": 64}}, {"feed_forward": "relu"}, {"norm": "layer"}]}},
    {"model": {"d_model": 1e2, "attention": {"n_heads": 4}, "position": "alibi"}},
    {"model": {"head": {"transform": "gelu", "bias": True}, "embedding": {"scale": "sqrt_d_model"}}},
    {"data": {"sources": "embedded"}},
    {"data": {"sources": {"kind": "text", "path": "notes/"}}},
    {"data": {"sources": ["embedded", {"kind": "text", "path": "notes/", "weight": 2}]}},
    {"training": {"optimizer": "muon", "schedule": {"kind": "wsd", "decay": 0.5}, "threads": "auto"}},
    {"training": {"optimizer": {"lr": 0.01}, "clip_norm": None}},
    {"training": {"optimizer": {"kind": "muon", "adamw": {"lr": 0.1, "betas": [0.9, 0.99]}}}},
]

BAD: list[dict[str, Any]] = [
    {"modell": {}},
    {"version": 2},
    {"model": {"d_model": "384"}},
    {"model": {"d_model": 0}},
    {"model": {"d_model": True}},
    {"model": {"n_layers": 1.5}},
    {"model": {"position": "rpoe"}},
    {"model": {"position": {"theta": 10.0}}},
    {"model": {"position": {"kind": "alibi", "theta": 10.0}}},
    {"model": {"attention": None}},
    {"model": {"attention": {"n_head": 2}}},
    {"model": {"layers": {"attention": {}}}},
    {"model": {"layers": [{"d_model": 3}]}},
    {"model": {"layers": [{"feed_forward": {"dff": 64}}]}},
    {"model": {"tied_embeddings": "yes"}},
    {"model": {"stack": "encoder_decoder", "encoder": {"d_model": 3}}},
    {"model": {"stack": "encoder_decoder", "encoder": {"layers": {"attention": {}}}}},
    {"model": {"embedding": {"scale": "sqrt"}}},
    {"model": {"head": {"kind": "classes", "transform": "gelu"}}},
    {"data": {"sources": []}},
    {"data": {"sources": {"kind": "text"}}},
    {"data": {"tokenizer": "word"}},
    {"data": {"validation_share": 0.9}},
    {"training": {"threads": "all"}},
    {"training": {"optimizer": {"kind": "adamw", "betas": [0.9]}}},
]


@pytest.mark.parametrize("values", GOOD, ids=json.dumps)
def test_what_the_reader_takes_is_valid(values: dict[str, Any]) -> None:
    assert taken(values)
    assert problems(values) == []


@pytest.mark.parametrize("values", BAD, ids=json.dumps)
def test_what_the_reader_refuses_is_not(values: dict[str, Any]) -> None:
    assert not taken(values)
    assert problems(values)


def test_every_word_and_option_has_its_meaning() -> None:
    schema = run_schema()
    for family, registry in Registry.families.items():
        words = {item["const"]: item["description"] for item in schema["$defs"][family]["anyOf"] if "const" in item}
        assert set(words) == set(registry.words())
        assert all(words.values())
    window = schema["$defs"]["pattern.window"]
    assert "a query sees `size` tokens" in window["properties"]["size"]["description"]
    assert window["required"] == ["kind"]
    assert schema["$defs"]["attention.multi_head"].get("required", []) == []  # the family's default kind


def test_a_part_of_one_s_own_is_published() -> None:
    values = {"model": {"position": {"kind": "root_decay", "strength": 0.1}}}
    assert problems(values)
    load_plugin(ROOT / "docs" / "examples" / "my_part.py")
    assert problems(values) == []
    assert problems({"plugins": "my_part.py", "model": {"position": "root_decay"}}) == []
