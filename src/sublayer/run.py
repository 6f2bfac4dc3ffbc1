"""The whole config of a run: YAML and dotted overrides to one validated tree of the rooms' own configs."""

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import model_validator

from sublayer.config import Config, suggest
from sublayer.data import DataConfig
from sublayer.data.objective import OBJECTIVES
from sublayer.errors import CheckpointError, ConfigError
from sublayer.files import written_aside
from sublayer.model import ModelConfig
from sublayer.model.head import ClassHeadConfig, HeadConfig
from sublayer.registry import load_plugin
from sublayer.training import TrainingConfig
from sublayer.training.device import DeviceName, DtypeName

VERSION: Literal[1] = 1


class RunConfig(Config):
    """A run: what is trained, on what, how, and where.  Paths in it are relative to the working directory."""

    version: Literal[1] = VERSION
    """Format of this config."""
    plugins: tuple[str, ...] = ()
    """Python files that register parts of your own; they are run before the rest is read."""
    device: DeviceName = "auto"
    """auto takes CUDA, then MPS, then the CPU."""
    dtype: DtypeName = "auto"
    """Of matrix products; auto takes bfloat16 where the hardware computes in it."""
    model: ModelConfig = ModelConfig()
    """The Transformer."""
    data: DataConfig = DataConfig()
    """What it is trained on."""
    training: TrainingConfig = TrainingConfig()
    """How it is trained."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        objective, stack = self.data.objective, self.model.stack
        if why := objective.unfit(stack):
            suited = [part.kind_name() for part in OBJECTIVES if stack in part.stacks]
            raise ValueError(
                f"data.objective: {objective.kind_name()} {why}; choose {_either(suited)}, or model.stack: "
                f"{_either(objective.stacks)}"
            )
        if objective.classifies and self.model.head.by_token:
            raise ValueError(
                f"model.head: {objective.kind_name()} tells a class for each text, and a head over tokens tells none; "
                "set model.head: classes"
            )
        if not objective.classifies and not self.model.head.by_token:
            raise ValueError(
                f"model.head: {objective.kind_name()} predicts tokens, and a head over classes has none; set "
                "model.head: tokens, or data.objective: classify"
            )
        shape, longest = self.data.row_shape(), self.model.longest()
        lengths = {"data.sequence_length": self.data.sequence_length, "data.objective.target_length": shape.length}
        for name, length in lengths.items():
            if longest is not None and length > longest:
                raise ValueError(
                    f"{name} ({length}) is longer than the model's positions, which end at model.max_length "
                    f"({longest}); raise that or shorten the sequences"
                )
        return self

    def with_vocabulary(self, size: int, classes: Sequence[str] = ()) -> "RunConfig":
        """The same with the tokenizer's vocabulary filled in, and the classes of the data where there are some.

        Raises:
            ConfigError: when the model was given a smaller vocabulary, or other classes.
        """
        given = self.model.vocab_size
        if given is not None and given < size:
            raise ConfigError(
                f"model.vocab_size: is {given}, but the tokenizer has {size} tokens; leave it out or raise it."
            )
        values = {name: getattr(self, name) for name in type(self).model_fields}
        model = {name: getattr(self.model, name) for name in ModelConfig.model_fields}
        filled = {"vocab_size": given or size, "head": _with_classes(self.model.head, classes)}
        return RunConfig(**values | {"model": ModelConfig(**model | filled)})


def _with_classes(head: HeadConfig, classes: Sequence[str]) -> HeadConfig:
    """A head over classes with their names.

    Raises:
        ConfigError: when it has other ones.
    """
    if not classes or not isinstance(head, ClassHeadConfig):
        return head
    named = tuple(classes)
    if head.classes not in ((), named):
        raise ConfigError(
            f"model.head.classes: they are {', '.join(head.classes)}, but those of the data are {', '.join(named)}; "
            "set data.objective.classes to the model's, or leave model.head.classes out."
        )
    if head.n_classes not in (None, len(named)):
        raise ConfigError(
            f"model.head.n_classes: is {head.n_classes}, but the data has {len(named)} classes; leave it out, or name "
            "all classes in data.objective.classes."
        )
    return head.model_copy(update={"classes": named, "n_classes": len(named)})


def read_config(
    source: str | Path | Mapping[str, Any] | None, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> RunConfig:
    """A run config from a YAML file (or a mapping), with overrides.

    Args:
        source: a path, a mapping, or None for the defaults of the default preset.
        overrides: `key=value` texts as on the command line, or a mapping of dotted keys to values.

    Where `training.init_from` names a model, what the source leaves out of `model` is that model's, and so is the
    tokenizer where `data.tokenizer` is left out; of the default preset, neither of the two is taken.

    Raises:
        ConfigError: when the file is missing or no YAML mapping, or a value is refused.
        CheckpointError: when `training.init_from` is no model directory.
    """
    if isinstance(source, Mapping):
        values = _copied(source)  # the overrides are put into it, and the caller's stays as it is
    else:
        values = _read_yaml(Path(source)) if source is not None else read_preset("default")
    pairs = _pairs(overrides)
    if source is None and any(key == "training.init_from" and value is not None for key, value in pairs):
        # Nobody asked for the preset's model and tokenizer, and another model's weights would not fit them.
        del values["model"], values["data"]["tokenizer"]
    for key, value in pairs:
        _put(values, key.split("."), value, key)
    version = values.get("version", VERSION)
    if version != VERSION:
        raise ConfigError(
            f"version: this sublayer reads configs of version {VERSION}, not {version!r}; update sublayer."
        )
    plugins = values.get("plugins") or []
    if isinstance(plugins, str):
        plugins = [plugins]
    if isinstance(plugins, list):  # anything else is refused below
        for plugin in plugins:
            load_plugin(Path(str(plugin)))
    return RunConfig.parse(_started(values) | {"plugins": plugins})


def values_of(config: RunConfig) -> dict[str, Any]:
    """A config as plain values for `read_config`; what was left out and follows from `init_from` is left out again."""
    values = config.tree()
    if config.training.init_from is not None:
        if "model" not in config.model_fields_set:
            del values["model"]
        if "tokenizer" not in config.data.model_fields_set:
            del values["data"]["tokenizer"]
    return values


def _started(values: dict[str, Any]) -> dict[str, Any]:
    """The values with what they leave out of the model and the tokenizer filled in from `training.init_from`.

    Raises:
        CheckpointError: when that is no model directory.
    """
    training, data, model = (values.get(name) for name in ("training", "data", "model"))
    directory = training.get("init_from") if isinstance(training, Mapping) else None
    if not isinstance(directory, str) or not isinstance(data or {}, Mapping) or not isinstance(model or {}, Mapping):
        return values  # anything wrong here is refused when it is parsed
    filled = dict(values)
    if set(ModelConfig.model_fields) - set(model or {}):  # a run's own config is complete, and needs no look
        from sublayer.checkpoint import load_config  # only here: it waits for torch

        try:
            theirs = load_config(Path(directory).expanduser())
        except CheckpointError as error:
            raise CheckpointError(f"training.init_from: {error}") from None
        base = theirs.tree()
        for name in ("classes", "n_classes"):  # which ones there are, the data says
            base["head"].pop(name, None)
        filled["model"] = _over(base, model or {})
    if "tokenizer" not in (data or {}):
        filled["data"] = {**(data or {}), "tokenizer": {"kind": "file", "path": directory}}
    return filled


def _over(base: Any, change: Any) -> Any:
    """A tree with another one put over it: the same kind merges key by key, another kind replaces."""
    if isinstance(base, Mapping) and isinstance(change, str) and base.get("kind") == change:
        return base
    if not isinstance(base, Mapping) or not isinstance(change, Mapping):
        return change
    if "kind" in base and change.get("kind", base["kind"]) != base["kind"]:
        return change
    return {**base, **{key: _over(base.get(key), value) for key, value in change.items()}}


def presets() -> list[str]:
    """The names of the configs shipped with the package."""
    names = [entry.name for entry in files("sublayer.presets").iterdir()]
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def read_preset(name: str) -> dict[str, Any]:
    """The values of a shipped config.

    Raises:
        ConfigError: when there is none of that name.
    """
    if name not in presets():
        raise ConfigError(f"--preset: there is no preset '{name}'; {suggest(name, presets())}.")
    text = (files("sublayer.presets") / f"{name}.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    assert isinstance(values, dict)
    return values


def write_config(path: Path, config: RunConfig) -> None:
    """Write a config so that `sublayer train PATH` repeats the run.

    Raises:
        RunError: when the disk is full or the file cannot be written.
    """
    with written_aside(path) as aside:
        text = yaml.dump(config.tree(), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
        aside.write_text(text, encoding="utf-8")


def _either(words: Sequence[str]) -> str:
    return " or ".join(words)


class _Loader(yaml.SafeLoader):
    """YAML as people take it to be: `1e-3` is a number (in YAML 1.1 a text), and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key '{key.value}' is given twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads as the same: a text `1e3` in quotes."""


for each in (_Loader, _Dumper):
    each.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


def _yaml(text: str) -> Any:
    return yaml.load(text, _Loader)


def _read_yaml(path: Path) -> dict[str, Any]:
    if path.is_dir():
        path = path / "config.yaml"
    try:
        values = _yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no config {path}; name a YAML file, or none for the default run.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no text in UTF-8, so no config.") from None
    except OSError as error:
        raise ConfigError(f"{path} could not be read: {error.strerror}.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise ConfigError(f"{path} is not valid YAML{place}: {problem}.") from None
    except (ValueError, RecursionError) as error:  # such as a date with a thirteenth month
        raise ConfigError(f"{path} is not valid YAML: {error}.") from None
    if values is None:
        raise ConfigError(
            f"{path} is empty; write at least 'version: {VERSION}', or name no config for the default run."
        )
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no mapping of keys to values, as a config must.")
    return values


def is_override(text: str) -> bool:
    """Whether a word of a command line is `key=value`, and not a path that holds an equals sign."""
    key, equals, _ = text.partition("=")
    return bool(equals) and "/" not in key and not Path(text).exists()


def _pairs(overrides: Sequence[str] | Mapping[str, Any]) -> list[tuple[str, Any]]:
    if isinstance(overrides, Mapping):
        return list(overrides.items())
    pairs = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[\w.]+", key):
            raise ConfigError(f"'{text}' is no override; write key=value, such as training.steps=200.")
        try:
            pairs.append((key, _yaml(value)))
        except (yaml.YAMLError, ValueError, RecursionError):
            raise ConfigError(
                f"{key}: '{value}' is no YAML value; quote it for the shell, as in key='[a, b]'."
            ) from None
    return pairs


def _copied(value: Any) -> Any:
    """A tree of mappings and lists again, with the same leaves."""
    if isinstance(value, Mapping):
        return {key: _copied(below) for key, below in value.items()}
    return [_copied(below) for below in value] if isinstance(value, list | tuple) else value


def _put(values: dict[str, Any], path: list[str], value: Any, key: str) -> None:
    """Set `value` at `path`; a shorthand on the way (`position: rope`) becomes a mapping with `kind`."""
    here: Any = values
    for depth, name in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(here, list):
            if not name.isdecimal() or int(name) >= len(here):
                raise ConfigError(f"{key}: '{name}' is no place in a list of {len(here)}; count from 0.")
            place: Any = int(name)
        else:
            place = name
        if last:
            here[place] = value
            return
        below = here[place] if isinstance(here, list) else here.get(place)
        if isinstance(below, str):
            below = {"kind": below}
            if path[depth + 1].isdecimal():  # one part where a list of them may stand
                below = [below]
        elif below is None:
            below = {}
        elif not isinstance(below, dict | list):
            raise ConfigError(f"{key}: '{'.'.join(path[: depth + 1])}' is {below!r}, which has no keys below it.")
        here[place] = below
        here = below
