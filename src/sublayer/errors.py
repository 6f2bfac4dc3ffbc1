"""The errors that sublayer raises at people.

Each message is one sentence that names what is wrong, where, and what to do instead.  The command line prints it on one
line and leaves with `exit_code`: 2 when the request was wrong, 1 when the work itself failed.
"""

from typing import ClassVar


class SublayerError(Exception):
    """Base of every error meant for a person rather than for a stack trace."""

    exit_code: ClassVar[int] = 1


class ConfigError(SublayerError, ValueError):
    """A config that cannot be built: unknown key, wrong type, or an illegal combination of choices."""

    exit_code = 2


class DataError(SublayerError, ValueError):
    """A source, tokenizer or prompt that cannot be read or used."""

    exit_code = 2


class CheckpointError(SublayerError, ValueError):
    """A model directory or training state that is missing, damaged, or belongs to something else."""

    exit_code = 2


class RunError(SublayerError, RuntimeError):
    """Work that started correctly and could not be finished: a full disk, a diverged loss, an interruption."""
