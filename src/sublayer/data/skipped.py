"""What a source passed by because it was asked to: how many documents, why, and where the first of each lies."""

from dataclasses import dataclass, field


@dataclass
class Skipped:
    """Documents passed by, by reason.

    Attributes:
        counts: reason → how many.
        first: reason → the place of the first one, such as "notes.jsonl line 17".
    """

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, place: str) -> None:
        """Count one more.

        Args:
            reason: a few words that many documents can share, such as "not JSON".
            place: the file and the line or row.
        """
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self.first.setdefault(reason, place)

    @property
    def total(self) -> int:
        """How many documents were passed by."""
        return sum(self.counts.values())
