"""The model's config: complete layers from overrides, shorthands, and refusals of compositions."""

from typing import Any

import pytest
import yaml

from sublayer.errors import ConfigError
from sublayer.model import ModelConfig, Transformer


def config(**changes: Any) -> ModelConfig:
    return ModelConfig(**{"vocab_size": 9, "d_model": 16, "n_layers": 4, "attention": {"n_heads": 4}} | changes)


def test_an_override_of_the_same_kind_merges_key_by_key() -> None:
    layers = config(
        attention={"n_heads": 4, "n_kv_heads": 2, "pattern": {"kind": "window", "size": 5}},
        layers=[{}, {"attention": {"n_kv_heads": 1}}, {"attention": {"pattern": {"size": 3}}}],
    ).resolve()
    seen = [(layer.attention.n_heads, layer.attention.n_kv_heads, layer.attention.pattern.size) for layer in layers]
    assert seen == [(4, 2, 5), (4, 1, 5), (4, 2, 3), (4, 2, 5)]


def test_an_override_of_another_kind_replaces() -> None:
    layers = config(
        position={"kind": "rope", "theta": 77.0},
        attention={"n_heads": 4, "pattern": {"kind": "window", "size": 5}},
        feed_forward={"kind": "gated", "d_ff": 24, "bias": True},
        layers=[{"position": "none", "attention": {"pattern": "full"}, "feed_forward": {"kind": "dense"}}, {}],
    ).resolve()
    assert [layer.position.kind_name() for layer in layers] == ["none", "rope", "none", "rope"]
    assert [layer.attention.pattern.kind_name() for layer in layers] == ["full", "window", "full", "window"]
    assert layers[0].feed_forward.d_ff == 64, "a dense one's own default, not the gated one's 24"
    assert not layers[0].feed_forward.bias
    assert layers[1].position.theta == 77.0


def test_a_shorthand_of_the_same_kind_merges_too() -> None:
    first, second = config(
        n_layers=2, feed_forward={"kind": "gated", "d_ff": 24, "bias": True}, layers=[{}, {"feed_forward": "geglu"}]
    ).resolve()
    assert (first.feed_forward.activation, second.feed_forward.activation) == ("silu", "gelu")
    assert (second.feed_forward.d_ff, second.feed_forward.bias) == (24, True)


def test_overrides_repeat_cyclically() -> None:
    layers = config(n_layers=7, layers=[{}, {}, {"feed_forward": "none"}]).resolve()
    assert [layer.feed_forward.kind_name() == "none" for layer in layers] == [i % 3 == 2 for i in range(7)]


def test_without_overrides_all_layers_are_the_same() -> None:
    assert len(set(config().resolve())) == 1
    assert len(config(n_layers=3).resolve()) == 3


@pytest.mark.parametrize("nothing", ["none", None])
def test_null_means_none(nothing: str | None) -> None:
    assert config(position=nothing).position.kind_name() == "none"
    assert config(layers=[{"feed_forward": nothing}]).resolve()[0].feed_forward.kind_name() == "none"


def test_a_mapping_without_kind_is_multi_head_attention_and_no_default_position() -> None:
    assert config(attention={"n_heads": 2}).attention.kind_name() == "multi_head"
    with pytest.raises(ConfigError, match=r"^position: needs a 'kind'; choose from: alibi, cope, "):
        config(position={"theta": 3.0})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"layers": [{"position": "learned"}]},
            r"^layers\[0\]\.position: 'learned' acts on the embeddings, so it is chosen for the whole stack; choose it",
        ),
        (
            {"position": "learned", "layers": [{}, {"position": "rope"}]},
            r"^layers\[1\]\.position: 'learned' acts on the",
        ),
        (
            {"layers": [{"d_model": 8}]},
            r"^layers\[0\]\.d_model: a layer cannot choose 'd_model' for itself; choose from",
        ),
        ({"layers": [{"positoin": "none"}]}, r"^layers\[0\]\.positoin: .*did you mean 'position'\?"),
        (
            {"layers": [{}, {"attention": {"n_heads": 3}}]},
            r"^layers\[1\]\.attention: n_heads \(3\) does not divide d_m",
        ),
        (
            {"layers": [{"attention": {"pattern": "windoww"}}]},
            r"^layers\[0\]\.attention\.pattern: 'windoww' is not a p",
        ),
        (
            {"layers": [{"position": {"layout": "odd"}}]},
            r"^layers\[0\]\.position\.layout: must be 'half' or 'interleav",
        ),
        (
            {"layers": [{"attention": {"n_heads": True}}]},
            r"^layers\[0\]\.attention\.n_heads: must be a number, not tru",
        ),
        (
            {"layers": [{"attention": {"n_headz": 2}}]},
            r"^layers\[0\]\.attention: unknown key 'n_headz'; did you mean '",
        ),
        ({"layers": [7]}, r"^layers\[0\]: must be a mapping of keys to values, not 7\.$"),
        ({"layers": "none"}, r"^layers: must be a list, not 'none'\.$"),
    ],
)
def test_an_illegal_layer_is_refused_at_its_place(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as refused:
        config(**changes)
    assert "\n" not in str(refused.value)


def test_a_layer_may_repeat_the_stack_s_embedded_position() -> None:
    assert config(position="learned", layers=[{"position": {"combine": "add"}}]).resolve()


def test_the_strictest_part_decides_how_far_decoding_is_exact() -> None:
    assert str(config().cache_exact()) == "always"
    assert str(config(position="learned", max_length=77).cache_exact()) == "until length 77"


def test_yaml_of_a_config_gives_the_config() -> None:
    before = config(feed_forward="geglu", layers=[{}, {"attention": {"pattern": {"kind": "window", "size": 3}}}])
    assert ModelConfig.parse(yaml.safe_load(yaml.safe_dump(before.tree()))) == before


def test_a_model_needs_a_vocabulary() -> None:
    with pytest.raises(ConfigError, match=r"^vocab_size: is required to build a model"):
        Transformer(ModelConfig(d_model=16, attention={"n_heads": 4}))
