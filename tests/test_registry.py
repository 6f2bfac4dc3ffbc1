"""Parts by name, and parts of a user's own."""

import json
import sys
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch

from sublayer.errors import ConfigError
from sublayer.model import ModelConfig, Transformer
from sublayer.model.feed_forward import FeedForwardConfig
from sublayer.model.position import PositionConfig
from sublayer.model.position.rope import RopeConfig
from sublayer.registry import Registry, load_plugin, register

PLUGIN = (Path(__file__).parent / "properties" / "plugin_parts.py").read_text()

pytestmark = pytest.mark.usefixtures("registries")


def kinds(family: str) -> list[str]:
    return [part.kind_name() for part in Registry.families[family]]


# -------------------------------------------------------------------------------------------------------- our own parts


@pytest.mark.parametrize(
    ("family", "some"),
    [
        ("position", {"alibi", "learned", "none", "rope", "sinusoidal"}),
        ("scaling", {"linear", "none", "yarn"}),
        ("feed_forward", {"dense", "gated", "none"}),
        ("pattern", {"full", "window"}),
        ("residual", {"post_norm", "pre_norm"}),
        ("norm", {"layer", "rms"}),
        ("attention", {"multi_head"}),
    ],
)
def test_the_parts_of_the_model_are_listed_in_order(family: str, some: set[str]) -> None:
    assert kinds(family) == sorted(kinds(family))
    assert some <= set(kinds(family))


@pytest.mark.parametrize("family", ["position", "scaling", "attention", "pattern", "feed_forward", "residual", "norm"])
def test_every_part_says_what_it_is_and_where_it_comes_from(family: str) -> None:
    for part in Registry.families[family]:
        assert part.paper or part.kind_name() == "none"
        assert part.summary()
        assert not part.summary().endswith(".")
        assert part.kind_name() in Registry.families[family]
        assert part().kind == part.kind_name()


@pytest.mark.parametrize("value", ["rope", {"kind": "rope"}, RopeConfig(), "rotary", {"kind": "rotary"}])
def test_a_word_a_mapping_and_a_config_mean_the_same(value: Any) -> None:
    assert ModelConfig(position=value).position == RopeConfig()


def test_expand_does_not_change_what_it_is_given() -> None:
    value = {"kind": "swiglu", "d_ff": 8}
    assert FeedForwardConfig.registry.expand(value) == {"kind": "gated", "activation": "silu", "d_ff": 8}
    assert value == {"kind": "swiglu", "d_ff": 8}


# ------------------------------------------------------------------------------------------------------- a user's parts


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "my_parts.py"
    path.write_text(PLUGIN)
    return path


def test_a_plug_in_s_parts_are_accepted_listed_and_in_the_schema(plugin: Path) -> None:
    values = {
        "vocab_size": 9,
        "d_model": 8,
        "n_layers": 2,
        "attention": {"n_heads": 2},
        "position": {"kind": "decay", "rate": 0.3},
        "feed_forward": "bottleneck",
        "layers": [{}, {"position": "fast_decay", "feed_forward": {"width": 5}}],
    }
    with pytest.raises(ConfigError, match=r"^position: 'decay' is not a position"):
        ModelConfig.parse(values)
    assert '"decay"' not in json.dumps(ModelConfig.model_json_schema())

    load_plugin(plugin)
    config = ModelConfig.parse(values)
    assert [layer.position.rate for layer in config.resolve()] == [0.3, 2.0]
    assert [layer.feed_forward.width for layer in config.resolve()] == [2, 5]
    assert "decay" in kinds("position")
    assert "bottleneck" in kinds("feed_forward")
    schema = json.dumps(ModelConfig.model_json_schema())
    assert all(word in schema for word in ('"decay"', '"fast_decay"', '"bottleneck"', '"How fast."'))
    assert ModelConfig.parse(config.tree()) == config
    with pytest.raises(ConfigError, match=r"^position\.rate: must be greater than 0, not -1\.$"):
        ModelConfig(position={"kind": "decay", "rate": -1})
    with pytest.raises(ConfigError, match=r"'deca' is not a position; did you mean 'decay'\?"):
        ModelConfig(position="deca")


def test_a_plug_in_s_parts_work_in_a_model(plugin: Path) -> None:
    load_plugin(plugin)
    config = ModelConfig(
        vocab_size=9, d_model=8, n_layers=2, attention={"n_heads": 2}, position="decay", feed_forward="bottleneck"
    )
    model = Transformer(config)
    tokens = torch.randint(0, 9, (2, 6))
    model(tokens, targets=tokens).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    state = model.init_state(2, 6)
    cached = torch.cat([model(tokens[:, t : t + 1], state=state).logits for t in range(6)], 1)
    torch.testing.assert_close(cached, model(tokens).logits, rtol=1e-4, atol=1e-5)


def test_a_plug_in_is_run_once_and_again_when_it_has_changed(plugin: Path) -> None:
    plugin.write_text(
        PLUGIN + "\nimport builtins\nbuiltins.sublayer_test_runs = getattr(builtins, 'sublayer_test_runs', 0) + 1\n"
    )
    import builtins

    def runs() -> int:
        return builtins.sublayer_test_runs  # type: ignore[attr-defined, no-any-return]

    try:
        load_plugin(plugin)
        load_plugin(plugin)
        assert runs() == 1
        plugin.write_text(plugin.read_text().replace("rate: Positive = 0.5", "rate: Positive = 0.25"))
        load_plugin(plugin)
        assert runs() == 2
        assert ModelConfig(d_model=8, attention={"n_heads": 2}, position="decay").position.rate == 0.25
    finally:
        del builtins.sublayer_test_runs  # type: ignore[attr-defined]


def test_two_plug_ins_of_the_same_file_name_are_both_run(tmp_path: Path) -> None:
    for folder, kind in (("one", "first"), ("two", "second")):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "parts.py"
        path.write_text(PLUGIN.replace('"decay"', f'"{kind}"').replace("fast_decay", f"fast_{kind}"))
        load_plugin(path)
    assert {"first", "second"} <= set(kinds("position"))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("raise RuntimeError('no such\\nthing.')", r"failed with RuntimeError: no such\.$"),
        ("def broken(:", r"failed with SyntaxError: .*\.$"),
        (
            "import a_module_that_is_not_there",
            r"failed with ModuleNotFoundError: No module named 'a_module_that_is_not",
        ),
        (
            "from typing import Literal\nimport sublayer as sl\n"
            "from sublayer.model.position import PositionConfig\n"
            "class Bad(PositionConfig):\n    kind: Literal['bad'] = 'bad'\n    rate = 3\n",
            r"failed with PydanticUserError: ",
        ),
    ],
    ids=["raises", "syntax", "import", "pydantic"],
)
def test_a_plug_in_that_fails_is_named_in_one_sentence_and_may_be_tried_again(
    tmp_path: Path, source: str, says: str
) -> None:
    path = tmp_path / "broken.py"
    path.write_text(source)
    for _ in range(2):
        with pytest.raises(ConfigError, match=says) as refused:
            load_plugin(path)
        assert str(path) in str(refused.value)
        assert "\n" not in str(refused.value)
    assert "sublayer_plugin_broken" not in sys.modules
    path.write_text(PLUGIN)
    load_plugin(path)
    assert "decay" in kinds("position")


def test_a_plug_in_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^plugins: there is no file .*absent\.py\.$"):
        load_plugin(tmp_path / "absent.py")


# ------------------------------------------------------------------------------------------------------- double names


def test_a_kind_that_is_taken_is_refused_and_the_first_stays() -> None:
    with pytest.raises(ConfigError, match=r"^the position 'rope' is registered twice, by RopeConfig and MyRope\.$"):

        @register
        class MyRope(PositionConfig):
            kind: Literal["rope"] = "rope"

    assert PositionConfig.registry["rope"] is RopeConfig


def test_another_class_of_the_same_name_does_not_take_the_place_of_ours() -> None:
    def make() -> type[PositionConfig]:
        class RopeConfig(PositionConfig):
            kind: Literal["rope"] = "rope"

        RopeConfig.__qualname__ = "RopeConfig"
        return RopeConfig

    with pytest.raises(ConfigError, match=r"^the position 'rope' is registered twice"):
        register(make())
    assert PositionConfig.registry["rope"] is RopeConfig


@pytest.mark.parametrize("word", ["swiglu", "dense"])
def test_a_shorthand_that_is_taken_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=rf"^the feed_forward '{word}' is registered twice, by \w+ and Mine\.$"):

        @register
        class Mine(FeedForwardConfig):
            shorthands: ClassVar[dict[str, dict[str, Any]]] = {word: {}}
            kind: Literal["mine"] = "mine"


def test_a_kind_may_not_be_another_part_s_shorthand() -> None:
    with pytest.raises(
        ConfigError, match=r"^the feed_forward 'swiglu' is registered twice, by GatedConfig and Mine\.$"
    ):

        @register
        class Mine(FeedForwardConfig):
            kind: Literal["swiglu"] = "swiglu"


def test_the_same_class_may_be_registered_again() -> None:
    register(RopeConfig)
    assert PositionConfig.registry["rope"] is RopeConfig


def test_a_class_without_kind_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^Nameless has no `kind: Literal\[\.\.\.\]` field, so no config could name it"
    ):

        @register
        class Nameless(PositionConfig):
            rate: float = 1.0


def test_a_config_of_a_part_that_was_never_registered_is_refused() -> None:
    class Secret(PositionConfig):
        kind: Literal["secret"] = "secret"

    with pytest.raises(
        ConfigError, match=r"^position: Secret is not a registered position; add it with sublayer\.regi"
    ):
        ModelConfig(position=Secret())
