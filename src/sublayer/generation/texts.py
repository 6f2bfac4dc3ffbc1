"""What is given as texts, looked at before anything is made of it."""

from collections.abc import Iterable, Mapping
from typing import Any

from sublayer.errors import DataError


def listed(given: Any, purpose: str, wanted: str = "a text, or a list of texts") -> list[Any]:
    """What is given, as a list; a text by itself is a list of one.

    Args:
        given: by the caller.
        purpose: what it is given for, such as `to fill`.
        wanted: what may be given.

    Raises:
        DataError: when it is neither a text nor several of anything.
    """
    if isinstance(given, str):
        return [given]
    if not isinstance(given, Iterable) or isinstance(given, Mapping | bytes):
        raise DataError(f"{purpose} there is {given!r:.60}; give {wanted}.")
    return list(given)


def texts_of(given: Any, purpose: str, wanted: str = "a text, or a list of texts") -> list[str]:
    """Texts as a list.

    Raises:
        DataError: when it is neither a text nor a list of them.
    """
    items = listed(given, purpose, wanted)
    for number, item in enumerate(items):
        if not isinstance(item, str):
            raise DataError(f"item {number + 1} of {len(items)} {purpose} is {item!r:.60}; give {wanted}.")
    return items
