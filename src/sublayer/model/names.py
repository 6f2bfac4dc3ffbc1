"""What belongs to a part, by the names that it has in the whole."""

from collections.abc import Mapping
from typing import TypeVar

V = TypeVar("V")


def below(prefix: str, values: Mapping[str, V]) -> dict[str, V]:
    """The values whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
