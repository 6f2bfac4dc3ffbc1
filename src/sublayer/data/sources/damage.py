"""What cannot be read as a document, and what is done about it: refused, or passed by and counted."""

from typing import Literal

from sublayer.data.skipped import Skipped
from sublayer.errors import DataError

WhenDamaged = Literal["refuse", "skip"]


class Damage(Exception):
    """Something that is no document: `reason` in a few words that many documents can share, `detail` of this one."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


def pass_by(damaged: WhenDamaged, skipped: Skipped, place: str, damage: Damage) -> None:
    """Count what is damaged, where that was asked for.

    Args:
        damaged: the source's option.
        skipped: where it is counted.
        place: the file and the line or row.
        damage: what is wrong there.

    Raises:
        DataError: where it was not asked for.
    """
    if damaged == "skip":
        skipped.add(damage.reason, place)
        return
    detail = f" ({damage.detail})" if damage.detail else ""
    raise DataError(
        f"{place}: {damage.reason}{detail}; mend it, or set damaged: skip on the source to pass such ones by."
    )


def nothing_left(named: str, skipped: Skipped, empty: str) -> DataError:
    """The error for a source that gave no text.

    Args:
        named: the source, as its user names it.
        skipped: what was passed by.
        empty: a sentence's beginning for where nothing was passed by, such as "notes.jsonl is empty".
    """
    if not skipped.total:
        return DataError(f"{empty}; name a source with text in data.sources.")
    reasons = ", ".join(f"{reason} ({count})" for reason, count in skipped.counts.items())
    return DataError(
        f"{named} gives no text, for all that is damaged was passed by: {reasons}; mend it or name another."
    )
