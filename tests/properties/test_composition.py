"""The strategy itself: it draws every registered part, plug-ins' too, and mostly legal compositions."""

from pathlib import Path

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis.errors import NoSuchExample

from sublayer.config import Count
from sublayer.model import ModelConfig
from sublayer.model.position import PositionConfig
from sublayer.model.resolution import LAYER_FIELDS
from sublayer.registry import Registry, load_plugin
from tests.properties.composition import Source, compositions, lively, random_tokens

PLUGIN = Path(__file__).parent / "plugin_parts.py"


def kinds_of(config: ModelConfig) -> set[tuple[str, str]]:
    return {(part.registry.family, part.kind_name()) for layer in config.resolve() for _, part in layer.parts()}


def test_every_registered_part_is_drawn() -> None:
    seen: set[tuple[str, str]] = set()

    @settings(max_examples=200)
    @given(compositions())
    def draw(composition: ModelConfig) -> None:
        seen.update(kinds_of(composition))

    draw()
    families = [Registry.families[name] for name in LAYER_FIELDS]
    expected = {(registry.family, part.kind_name()) for registry in families for part in registry}
    assert seen >= expected | {("pattern", "full"), ("pattern", "window")}


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize(("family", "kind"), [("position", "decay"), ("feed_forward", "bottleneck")])
def test_a_plug_in_s_part_is_drawn_with_its_options(family: str, kind: str) -> None:
    strategy = compositions(stack="decoder")  # made before the plug-in is there
    with pytest.raises(NoSuchExample):
        find(
            strategy,
            lambda config: (family, kind) in kinds_of(config),
            settings=settings(max_examples=20, phases=[Phase.generate]),
        )
    load_plugin(PLUGIN)

    def has_it_with_an_option(config: ModelConfig) -> bool:
        part = getattr(config, family)
        return part.kind_name() == kind and bool(part.model_fields_set - {"kind"})

    config = find(strategy, has_it_with_an_option, settings=settings(max_examples=2000, phases=[Phase.generate]))
    assert lively(config)(random_tokens(1, 1, 5)).logits.isfinite().all()


def test_options_stay_within_the_bounds_of_their_fields() -> None:
    class Bounded(PositionConfig):
        count: Count | None = None

    rope, seen = PositionConfig.registry["rope"], set()
    for seed in range(100):
        source = Source(lambda strategy: True, seed)
        seen.add(source.option("", "count", Bounded.model_fields["count"]))
        assert 0 < source.option("", "fraction", rope.model_fields["fraction"]) <= 1
        assert source.option("", "dropout", ModelConfig.model_fields["dropout"]) == 0
    assert seen == {None, 1, 2, 3, 4, 5, 6}


def test_an_option_of_a_type_that_cannot_be_drawn_is_an_error_and_not_left_out() -> None:
    class Odd(PositionConfig):
        thing: bytes = b""

    with pytest.raises(TypeError, match=r"model\.odd\.thing: no way is known"):
        Source(lambda strategy: True, 0).option("model.odd.thing", "thing", Odd.model_fields["thing"])
