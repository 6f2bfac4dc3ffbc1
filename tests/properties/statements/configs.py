"""A config written out and read again is the same, and what a part says of itself is held to."""

import random

import pytest
import yaml

from sublayer.errors import ConfigError
from sublayer.model import ModelConfig
from sublayer.model.resolution import LAYER_FIELDS, LayerConfig
from sublayer.run import read_config
from tests.properties.composition import as_yaml
from tests.properties.statement import Subject, statement


@statement()
def a_config_written_out_and_read_again_is_the_same(subject: Subject, dice: random.Random) -> None:
    again = ModelConfig.parse(subject.config.tree())
    assert again == subject.config
    assert again.all_layers() == subject.config.all_layers()


@statement(share=0.25)
def it_can_be_printed_and_read_as_the_config_of_a_run(subject: Subject, dice: random.Random) -> None:
    assert read_config(yaml.safe_load(as_yaml(subject.config))).model == subject.config


def one_sided(config: ModelConfig) -> bool:
    """Whether some part of it is for one kind of stack only."""
    return any(len(part.directions) == 1 for layer in config.all_layers() for _, part in layer.parts())


@statement(lambda config: config.stack != "encoder_decoder" and one_sided(config))
def a_part_for_one_kind_of_stack_is_refused_in_the_other(subject: Subject, dice: random.Random) -> None:
    tree = subject.config.tree()
    tree["stack"] = "encoder" if subject.config.stack == "decoder" else "decoder"
    # Those of all layers too where each layer has another one.
    base = LayerConfig(**{name: getattr(subject.config, name) for name in LAYER_FIELDS})
    parts = [part for layer in (base, *subject.config.all_layers()) for _, part in layer.parts()]
    named = [f"'{part.kind_name()}' is not defined" for part in parts if len(part.directions) == 1]
    with pytest.raises(ConfigError, match=r"^[^\n]*\.$") as refused:
        ModelConfig.parse(tree)
    # Something else may be refused before it comes to that, such as a kernel of even size; but no other part for this.
    said = str(refused.value)
    assert "is not defined" not in said or any(each in said for each in named)
