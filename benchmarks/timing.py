"""Timing two ways side by side: in turn, in one process, and as a ratio of medians."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence


def medians(ways: Mapping[str, Callable[[], object]], rounds: int = 15) -> dict[str, float]:
    """Seconds of each way, the median over rounds in which each is run once; a first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if round_number:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in seconds.items()}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, as the documentation holds it."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
