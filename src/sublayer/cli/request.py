"""What a command line names: a config or a preset, and values to change in it."""

from collections.abc import Sequence
from typing import Any


def requested(arguments: Sequence[str] | None, preset: str | None) -> tuple[str | dict[str, Any] | None, list[str]]:
    """The config that is named, as `read_config` takes it (None where nothing is), and the overrides.

    Raises:
        ConfigError: when several are named, or there is no such preset.
    """
    from sublayer.errors import ConfigError
    from sublayer.run import is_override, read_preset

    # A path may hold an equals sign; a key cannot hold a slash.
    overrides = [argument for argument in arguments or [] if is_override(argument)]
    given = [argument for argument in arguments or [] if not is_override(argument)]
    if len(given) > 1:
        raise ConfigError(f"'{given[1]}' is one config too many; give one YAML file, then key=value pairs.")
    if given and preset:
        raise ConfigError(f"--preset: give either a preset or the config {given[0]}, not both.")
    if given:
        return given[0], overrides
    return (read_preset(preset) if preset else None), overrides
