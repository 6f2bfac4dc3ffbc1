"""What a model directory says of how its text is drawn."""

import json
from pathlib import Path
from typing import Any

import pytest

from sublayer.errors import CheckpointError, ConfigError
from sublayer.generation import GenerationConfig, generation_config


def written(folder: Path, values: Any) -> Path:
    (folder / "generation_config.json").write_text(json.dumps(values))
    return folder


def test_without_a_file_ours_hold(tmp_path: Path) -> None:
    assert generation_config(tmp_path) == GenerationConfig()
    assert generation_config(tmp_path, top_k=3) == GenerationConfig(top_k=3)


def test_the_file_says_and_options_go_over_it(tmp_path: Path) -> None:
    values = {"max_new_tokens": 7, "temperature": 0.3, "top_k": 0, "top_p": 0.9, "min_p": None, "eos_token_id": [1, 2]}
    folder = written(tmp_path, values | {"repetition_penalty": 1.5, "do_sample": True, "transformers_version": "5"})
    expected = GenerationConfig(max_tokens=7, temperature=0.3, top_p=0.9, repetition_penalty=1.5)
    assert generation_config(folder) == expected
    assert generation_config(folder, temperature=1.0, seed=3) == expected.model_copy(
        update={"temperature": 1.0, "seed": 3}
    )


def test_do_sample_false_is_greedy_unless_asked_otherwise(tmp_path: Path) -> None:
    folder = written(tmp_path, {"do_sample": False, "temperature": 0.6})
    assert generation_config(folder).temperature == 0
    assert generation_config(folder, temperature=0.5).temperature == 0.5


@pytest.mark.parametrize("values", [{"temperature": "hot"}, {"top_p": 3}, [1]])
def test_a_damaged_file_is_named(tmp_path: Path, values: Any) -> None:
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        generation_config(written(tmp_path, values))
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"generation_config\.json is damaged"):
        generation_config(tmp_path)


def test_an_option_that_is_wrong_is_the_callers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="top_p"):
        generation_config(written(tmp_path, {"temperature": 0.3}), top_p=2)


def test_beams_of_the_file_and_of_the_caller(tmp_path: Path) -> None:
    values = {"num_beams": 4, "length_penalty": 0.6, "early_stopping": True, "temperature": 0.7, "max_new_tokens": 9}
    searched = GenerationConfig(beams=4, length_penalty=0.6, early_stopping=True, max_tokens=9)
    drawn = GenerationConfig(temperature=0.7, max_tokens=9)
    # A file that says both means beams, unless it says that tokens are drawn; what the caller asks for goes over it.
    assert generation_config(written(tmp_path, values)) == searched
    assert generation_config(tmp_path, beams=2) == searched.model_copy(update={"beams": 2})
    assert generation_config(tmp_path, beams=1) == drawn
    assert generation_config(tmp_path, seed=3) == drawn.model_copy(update={"seed": 3})
    assert generation_config(written(tmp_path, values | {"do_sample": True})) == drawn
    expected = GenerationConfig(beams=3, max_tokens=9, length_penalty=0.6, early_stopping=True)
    assert generation_config(tmp_path, beams=3) == expected
    # What they write without beams.
    values = {"num_beams": 1, "length_penalty": 1.0, "early_stopping": False, "do_sample": False}
    assert generation_config(written(tmp_path, values)) == GenerationConfig(temperature=0)
    assert generation_config(tmp_path, beams=2) == GenerationConfig(beams=2)
    with pytest.raises(ConfigError, match="top_k has no effect with beams"):
        generation_config(tmp_path, beams=2, top_k=3)
    with pytest.raises(CheckpointError, match=r"generation_config\.json: beams: "):
        generation_config(written(tmp_path, {"num_beams": "four"}))
