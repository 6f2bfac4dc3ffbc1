"""Stop strings: a text ends before them, though they come in pieces."""

from collections.abc import Sequence
from copy import copy


class StopStrings:
    """Gives out a text up to the first stop string; where it falls apart into pieces does not matter.

    The first is the one that is complete first; of two complete at once, the longer.  Text that could be the beginning
    of one is kept back until it is known to be none.

    Args:
        stop: none of them empty.

    Attributes:
        found: a stop string has come; nothing more is given out.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = stop
        self._longest = max(map(len, stop), default=0)
        self._kept = ""
        self.found = False

    def copy(self) -> "StopStrings":
        """Another one, which goes on from the same place."""
        return copy(self)

    def push(self, text: str) -> str:
        """The text that is now known to stand before any stop string."""
        if self.found:
            return ""
        text = self._kept + text
        # By where it ends, then the longest: negative, so that the smallest is the one.
        ends = [(at + len(stop), -len(stop)) for stop in self._stop if (at := text.find(stop)) >= 0]
        if ends:
            end, minus_length = min(ends)
            self.found, self._kept = True, ""
            return text[: end + minus_length]
        sure = len(text) - self._beginning(text)
        self._kept = text[sure:]
        return text[:sure]

    def finish(self) -> str:
        """What was kept back, when no more text comes."""
        rest, self._kept = self._kept, ""
        return rest

    def _beginning(self, text: str) -> int:
        """How many characters at the end of `text` could be the beginning of a stop string."""
        for n in range(min(self._longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-n:]) for stop in self._stop):
                return n
        return 0
