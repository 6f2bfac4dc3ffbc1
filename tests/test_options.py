"""What an option may be, in words."""

from typing import Literal

from sublayer.config import Config, Count, NonNegative, Probability
from sublayer.model.config import ModelConfig
from sublayer.options import options
from sublayer.registry import Registry
from sublayer.run import RunConfig


class Example(Config):
    size: Count | None = None
    """How large it is,
    in tokens."""
    rate: Probability = 0.5
    step: NonNegative = 1.0
    names: tuple[str, ...] = ("a", "b")
    word: Literal["one", "two"] = "one"
    flag: bool = True
    given: int


def test_values_defaults_and_meanings() -> None:
    rows = {option.name: option for option in options(Example)}
    assert rows["size"].values == "integer ≥ 1 or null"
    assert rows["size"].default == "null"
    assert rows["size"].meaning == "How large it is, in tokens."
    assert rows["rate"].values == "number ≥ 0, < 1"
    assert rows["step"].values == "number ≥ 0"
    assert rows["names"].values == "[text, …]"
    assert rows["names"].default == "[a, b]"
    assert rows["word"].values == "one | two"
    assert (rows["flag"].values, rows["flag"].default) == ("true | false", "true")
    assert rows["given"].default == ""


def test_choices_are_named_by_their_family() -> None:
    rows = {option.name: option for option in options(ModelConfig)}
    assert rows["position"].values == "a position"
    assert rows["attention"].values == "an attention"
    assert rows["feed_forward"].values == "a feed-forward"
    assert rows["position"].default == "rope"


def test_every_option_of_every_part_says_what_it_means() -> None:
    assert RunConfig.model_fields  # imported for the parts that it registers
    for registry in Registry.families.values():
        for part in registry:
            if part.__module__.startswith("sublayer."):
                assert part.summary(), part
                assert all(option.meaning for option in options(part)), part
