"""What is checked: a run's config, or a model's alone, with its vocabulary filled in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sublayer.errors import ConfigError
from sublayer.model import ModelConfig
from sublayer.model.head import ClassHeadConfig
from sublayer.run import RunConfig, read_config, values_of
from sublayer.run_directory import CONFIG as RUN

Source = str | Path | Mapping[str, Any] | RunConfig | ModelConfig | None


@dataclass(frozen=True, slots=True)
class Subject:
    """A model and, where it is known, the run that trains it.

    Attributes:
        model: with its vocabulary's size.
        run: None for a model alone.
        assumed: how the size of the vocabulary was come by where the config does not state it; empty where it does.
    """

    model: ModelConfig
    run: RunConfig | None
    assumed: str = ""


def subject_of(source: Source, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Subject:
    """What `source` names: a YAML file, a run's or model's directory, a mapping, or a config; None for the default run.

    Raises:
        ConfigError: when it is refused, or a model alone is given overrides.
        CheckpointError: when a model directory is damaged.
        DataError: when the config names a tokenizer file that cannot be read.
    """
    if isinstance(source, str | Path) and Path(source).is_dir() and not (Path(source) / RUN).is_file():
        from sublayer.checkpoint import load_config  # it waits for what training states are saved with

        if overrides:
            raise ConfigError(f"{source} holds no run, so there is nothing to override; give a run's config instead.")
        source = load_config(Path(source))
    if isinstance(source, ModelConfig):
        if source.vocab_size is None:
            raise ConfigError("vocab_size: is required to check a model alone; in a run it comes from the tokenizer.")
        return Subject(source, None)
    run = read_config(values_of(source) if isinstance(source, RunConfig) else source, overrides)
    classes = run.data.objective.named_classes()
    if isinstance(run.model.head, ClassHeadConfig) and run.model.head.number is None and not classes:
        raise ConfigError(
            "model.head.n_classes: is not known before the data is read; set it to check, or name the classes in "
            "data.objective.classes."
        )
    tokenizer, assumed = run.data.tokenizer, ""
    size = run.model.vocab_size
    if size is None:
        size, assumed = run.data.expected_vocabulary(), f"from the {tokenizer.kind_name()} tokenizer's config"
    if size is None:
        raise ConfigError(
            f"model.vocab_size: is not known before the {tokenizer.kind_name()} tokenizer is made; set it to check."
        )
    complete = run.with_vocabulary(size, classes)
    return Subject(complete.model, complete, assumed)
