"""The strategy itself: it draws every registered part, plug-ins' too, and mostly legal compositions."""

import random
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis.errors import NoSuchExample
from pydantic import Field
from typer.testing import CliRunner

from sublayer.cli.app import app
from sublayer.config import Count, Positive, Whole
from sublayer.model import ModelConfig
from sublayer.model.position import PositionConfig
from sublayer.registry import load_plugin
from tests.properties.composition import as_yaml, composition_of, compositions, lively, random_tokens, tree_of
from tests.properties.drawing import Choices
from tests.properties.tally import families, kinds_of

PLUGIN = Path(__file__).parent / "plugin_parts.py"


def test_every_registered_part_is_drawn() -> None:
    seen: set[tuple[str, str]] = set()

    @settings(max_examples=500)
    @given(compositions(by_token=None))
    def draw(composition: ModelConfig) -> None:
        seen.update(kinds_of(composition))

    draw()
    assert seen >= {(family, part.kind_name()) for family, registry in families() for part in registry}


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


def all_there(seed: int) -> Choices:
    return Choices(random.Random(seed).randbytes(8) + b"\xff" * 64)


def test_options_stay_within_the_bounds_of_their_fields() -> None:
    class Bounded(PositionConfig):
        count: Count | None = 3
        few: Annotated[Whole, Field(le=2)] = 0
        share: Annotated[Positive, Field(le=1)] = 1.0

    seen: dict[str, set[object]] = {name: set() for name in ("count", "few", "share")}
    for seed in range(200):
        choices = all_there(seed)
        for name, values in seen.items():
            values.add(choices.option("", name, Bounded.model_fields[name]))
        assert choices.option("", "dropout", ModelConfig.model_fields["dropout"]) == 0
    assert seen["count"] == {None, *range(1, 9)}
    assert seen["few"] == {0, 1, 2}
    assert seen["share"] == {1.0, 0.5, 0.25}


def test_an_option_of_a_type_that_cannot_be_drawn_is_an_error_and_not_left_out() -> None:
    class Odd(PositionConfig):
        thing: bytes = b""

    with pytest.raises(TypeError, match=r"model\.odd\.thing: no way is known"):
        all_there(0).option("model.odd.thing", "thing", Odd.model_fields["thing"])


def test_without_any_key_a_composition_has_few_choices() -> None:
    """What hypothesis shrinks a failing one to."""
    blob = random.Random(0).randbytes(8) + bytes(64)
    tree = tree_of(Choices(blob), "decoder", True, {})
    assert (tree["layers"], tree["head"]) == ([], {"kind": "tokens"})
    assert not {"embedding", "tied_embeddings", "final_norm"} & set(tree)
    assert set(tree["attention"]) == {"kind", "n_heads"}


@pytest.mark.parametrize("seed", range(8))
def test_a_printed_composition_can_be_pasted_into_check(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "composition.yaml"
    path.write_text(as_yaml(composition_of(seed)), encoding="utf-8")
    told = CliRunner().invoke(app, ["check", str(path)])
    assert told.exit_code == 0, told.output
