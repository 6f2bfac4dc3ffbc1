"""Every config is frozen, closed, and wrong in one sentence that names the key and what is allowed."""

import json
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from sublayer.config import Config, Count, NonNegative, Positive, Probability, Share, Whole
from sublayer.errors import ConfigError, SublayerError
from sublayer.model import ModelConfig
from sublayer.model.attention.multi_head import MultiHeadConfig
from sublayer.model.attention.pattern.window import WindowConfig
from sublayer.model.norm import NormConfig
from sublayer.model.position.rope import RopeConfig
from sublayer.registry import Registry

NAN, INFINITE = float("nan"), float("inf")

REFUSALS: list[tuple[dict[str, Any], str]] = [
    # unknown kinds, with a suggestion where one is near
    (
        {"position": "rotaryy"},
        r"position: 'rotaryy' is not a position; did you mean 'rotary'\? choose from: alibi, cope, ",
    ),
    ({"position": {"kind": "ropee"}}, r"position: 'ropee' is not a position; did you mean 'rope'\? choose from: alibi"),
    ({"attention": "multi-head"}, r"attention: 'multi-head' is not an attention; did you mean 'multi_head'\?"),
    (
        {"attention": {"pattern": "banana"}},
        r"attention\.pattern: 'banana' is not a pattern; choose from: full, window\.",
    ),
    ({"feed_forward": "swigluu"}, r"feed_forward: 'swigluu' is not a feed_forward; did you mean 'swiglu'\?"),
    ({"norm": 3}, r"norm: must be the name of a norm or a mapping with 'kind', not 3\."),
    ({"position": {"kind": ["rope"]}}, r"position: '\['rope'\]' is not a position"),
    ({"position": "one\nthing\nand another"}, r"position: 'one thing and another' is not a position"),
    # unknown keys
    ({"n_layer": 2}, r"unknown key 'n_layer'; did you mean 'n_layers'\? choose from: stack, vocab_size, d_model"),
    (
        {"attention": {"n_head": 2}},
        r"attention: unknown key 'n_head'; did you mean 'n_heads'\? choose from: kind, n_he",
    ),
    ({"position": {"kind": "alibi", "theta": 3.0}}, r"position: unknown key 'theta'; choose from: kind\."),
    ({"initialisation": {"sdt": 1.0}}, r"initialisation: unknown key 'sdt'; did you mean 'std'\? choose from: std"),
    # wrong types
    ({"n_layers": "six"}, r"n_layers: must be a number, not 'six'\."),
    ({"n_layers": 2.5}, r"n_layers: must be a whole number, not 2\.5\."),
    ({"n_layers": "6"}, r"n_layers: must be a number, not '6'\."),
    ({"n_layers": None}, r"n_layers: must be a valid integer, not None\."),
    ({"n_layers": True}, r"n_layers: must be a number, not true\."),
    ({"dropout": False}, r"dropout: must be a number, not false\."),
    ({"position": {"kind": "rope", "fraction": True}}, r"position\.fraction: must be a number, not true\."),
    ({"tied_embeddings": "maybe"}, r"tied_embeddings: must be true or false, not 'maybe'\."),
    ({"tied_embeddings": 1}, r"tied_embeddings: must be true or false, not 1\."),
    ({"layers": {"attention": {}}}, r"layers: must be a list, not \{'attention': \{\}\}\."),
    ({"layers": ["full"]}, r"layers\[0\]: must be a mapping of keys to values, not 'full'\."),
    ({"initialisation": 3}, r"initialisation: must be a mapping of keys to values, not 3\."),
    # values out of bounds
    ({"stack": "encoder_decodr"}, r"stack: must be 'decoder', 'encoder' or 'encoder_decoder', not 'encoder_decodr'\."),
    ({"d_model": 0}, r"d_model: must be greater than or equal to 1, not 0\."),
    ({"dropout": 1.0}, r"dropout: must be less than 1, not 1\.0\."),
    ({"dropout": NAN}, r"dropout: must be .*, not nan\."),
    ({"attention": {"n_heads": -1}}, r"attention\.n_heads: must be greater than or equal to 1, not -1\."),
    (
        {"attention": {"pattern": {"kind": "window", "size": 0}}},
        r"attention\.pattern\.size: must be greater than or eq",
    ),
    (
        {"position": {"kind": "rope", "fraction": 1.5}},
        r"position\.fraction: must be less than or equal to 1, not 1\.5\.",
    ),
    ({"position": {"kind": "rope", "theta": INFINITE}}, r"position\.theta: must be a finite number, not inf\."),
    (
        {"position": {"kind": "rope", "layout": "hlaf"}},
        r"position\.layout: must be 'half' or 'interleaved', not 'hlaf'",
    ),
    # compositions
    (
        {"attention": {"n_heads": 5}},
        r"attention: n_heads \(5\) does not divide d_model \(384\); choose a divisor or set",
    ),
    ({"attention": {"n_heads": 6, "n_kv_heads": 4}}, r"attention: n_kv_heads \(4\) does not divide n_heads \(6\)"),
    ({"attention": {"d_head": 7, "n_heads": 2}}, r"position: rope rotates pairs of features, but it would rotate 7 of"),
]


@pytest.mark.parametrize(("values", "sentence"), REFUSALS, ids=[str(values)[:60] for values, _ in REFUSALS])
def test_a_wrong_value_is_refused_in_one_sentence_naming_its_key(values: dict[str, Any], sentence: str) -> None:
    for build in (lambda: ModelConfig(**values), lambda: ModelConfig.parse(values)):
        with pytest.raises(ConfigError, match=f"^{sentence}") as refused:
            build()
        message = str(refused.value)
        assert "\n" not in message
        assert message.endswith(".")
        assert not message.endswith("..")
        assert "pydantic" not in message
        assert "Input should" not in message
        assert refused.value.__suppress_context__, "pydantic's own report is not shown above it"


def test_a_config_error_is_a_value_error_that_leaves_with_2() -> None:
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ConfigError, SublayerError)
    assert ConfigError.exit_code == 2


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"embedding": {"scale": "sqrt"}}, r"embedding.scale: must be a number or 'sqrt_d_model', not 'sqrt'."),
        ({"embedding": {"scale": -1}}, r"embedding.scale: must be greater than 0 or 'sqrt_d_model', not -1."),
        (
            {"layers": [{"attention": {"bias": "maybe"}}]},
            r"layers\[0\].attention.bias: must be true, false or a map",
        ),
        ({"embedding": {"scale": "x"}, "d_model": 0}, r"d_model: .* not 0 \(and 1 more problem after it\)."),
    ],
)
def test_a_value_that_may_be_one_thing_or_another(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"^{words}"):
        ModelConfig(**values)


def test_further_problems_are_counted() -> None:
    with pytest.raises(ConfigError, match=r"^d_model: must be .* not 0 \(and 1 more problem after it\)\.$"):
        ModelConfig(d_model=0, n_layers=0)
    with pytest.raises(ConfigError, match=r"\(and 2 more problems after it\)\.$"):
        ModelConfig(d_model=0, n_layers=0, max_length=0)


def test_a_long_value_is_cut_short() -> None:
    with pytest.raises(ConfigError) as refused:
        ModelConfig(stack="x" * 1000)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("values", [None, [], "model", 3])
def test_what_is_no_mapping_is_refused(values: Any) -> None:
    with pytest.raises(ConfigError, match=r"^a mapping of keys to values was expected, not "):
        ModelConfig.parse(values)


def test_a_part_built_directly_refuses_in_the_same_way() -> None:
    with pytest.raises(ConfigError, match=r"^theta: must be greater than 0, not -1\.$"):
        RopeConfig(theta=-1)
    with pytest.raises(ConfigError, match=r"^unknown key 'size_'; did you mean 'size'\?"):
        WindowConfig(size_=3)
    with pytest.raises(ConfigError, match=r"^pattern: 'widow' is not a pattern; did you mean 'window'\?"):
        MultiHeadConfig(pattern="widow")


def test_a_config_in_a_config_is_taken_as_it_is() -> None:
    rope = RopeConfig(theta=5.0)
    config = ModelConfig(position=rope, attention=MultiHeadConfig(n_heads=6, pattern=WindowConfig(size=3)))
    assert config.position == rope
    assert config.attention.pattern.size == 3
    with pytest.raises(ConfigError, match=r"^position: 'rms' is not|^position: RMSNormConfig is not a registered pos"):
        ModelConfig(position=NormConfig.registry["rms"]())


@pytest.mark.parametrize("name", ["d_model", "position", "a_new_one"])
def test_configs_are_frozen(name: str) -> None:
    config = ModelConfig()
    with pytest.raises(ValidationError):
        setattr(config, name, 3)
    with pytest.raises(ValidationError):
        config.position.theta = 3.0
    assert config == ModelConfig()


def test_a_tree_holds_every_default_in_plain_values_and_builds_the_same_config() -> None:
    config = ModelConfig(position="rope", layers=[{"attention": {"pattern": "full"}}])
    tree = json.loads(json.dumps(config.tree()))
    assert tree["position"] == {
        "kind": "rope",
        "theta": 10000.0,
        "layout": "half",
        "fraction": 1.0,
        "scaling": {"kind": "none"},
    }
    assert tree["layers"] == [{"attention": {"pattern": "full"}}]
    assert tree["attention"]["pattern"] == {"kind": "full"}
    assert ModelConfig.parse(tree) == config


class Numbers(Config):
    count: Count = 1
    whole: Whole = 0
    positive: Positive = 1.0
    not_negative: NonNegative = 0.0
    share: Share = 0.5
    probability: Probability = 0.5


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("count", [1, 10**9], [0, -1, 1.5, NAN]),
        ("whole", [0, 7], [-1]),
        ("positive", [1e-30, 3], [0.0, -1.0, NAN, INFINITE]),
        ("not_negative", [0.0, 3], [-1e-9, NAN, INFINITE]),
        ("share", [0.0, 1.0], [-0.1, 1.1, NAN]),
        ("probability", [0.0, 0.999], [1.0, -0.1, NAN]),
    ],
)
def test_bounds_of_the_number_types(name: str, good: list[float], bad: list[float]) -> None:
    for value in good:
        assert getattr(Numbers(**{name: value}), name) == value
    for value in (*bad, True, "many", None, [1]):
        with pytest.raises(ConfigError, match=rf"^{name}: must be ") as refused:
            Numbers(**{name: value})
        assert "\n" not in str(refused.value)


def test_a_required_key_left_out_and_a_part_s_own_check() -> None:
    class Pair(Config):
        low: int
        high: Annotated[int, Field(ge=0)] = 3
        side: Literal["left", "right"] = "left"

        @model_validator(mode="after")
        def _order(self) -> "Pair":
            if self.low > self.high:
                raise ValueError(f"low ({self.low}) is above high ({self.high})")
            return self

    with pytest.raises(ConfigError, match=r"^low: is required and was left out\.$"):
        Pair()
    with pytest.raises(ConfigError, match=r"^low \(5\) is above high \(3\)\.$"):
        Pair(low=5)


def test_the_json_schema_lists_every_kind_and_shorthand() -> None:
    schema = json.dumps(ModelConfig.model_json_schema())
    for family in ("position", "attention", "pattern", "feed_forward", "residual", "norm"):
        for part in Registry.families[family]:
            assert f'"const": "{part.kind_name()}"' in schema
            for word in part.shorthands:
                assert f'"{word}"' in schema
