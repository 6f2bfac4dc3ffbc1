"""What a study is, and how it is told: tables in Markdown, figures as JSON, and a picture."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sublayer.files import json_mapping, written_aside
from sublayer.training.curve import COLOURS

from .desk import Desk, Finished, saved

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Figures = Mapping[str, Any]
"""Plain values, as JSON has them."""


@dataclass(frozen=True)
class Study:
    """A question, how it is measured, and how the answer is told.

    Attributes:
        name: of its files.
        summary: what it asks.
        minutes: that it takes on two cores that have nothing else to do, with as many `seeds`; runs that other studies
            share with it included.
        seeds: runs of each variant, where none are asked for; 0 where it trains nothing.
        measure: to figures.
        tables: of the figures, in Markdown.
        draw: of the figures.
        size: of the picture, in inches.
    """

    name: str
    summary: str
    minutes: float
    seeds: int
    measure: Callable[[Desk], Figures]
    tables: Callable[[Figures], Sequence[str]]
    draw: Callable[[Figures, "Figure"], None]
    size: tuple[float, float] = (8.0, 4.0)

    def tell(self, desk: Desk) -> None:
        """Measure, print the tables, and write the figures and the picture to `desk.out`."""
        path = desk.out / f"{self.name}.json"
        figures = json_mapping(path) if desk.only_read and not self.seeds else self.measure(desk)
        print("\n\n".join(self.tables(figures)))
        if desk.missing:
            print(f"\nnot trained yet: {', '.join(sorted(set(desk.missing)))}")
        saved(path, figures)
        self.picture(figures, desk.out / f"{self.name}.svg")

    def picture(self, figures: Figures, path: Path) -> None:
        """Draw the figures as an SVG."""
        # The object interface only: pyplot would choose a window system.
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        # Text as text, and names without random parts: the same figures draw the same file.
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "sublayer", "font.family": "sans-serif"}):
            figure = Figure(figsize=self.size, layout="constrained")
            self.draw(figures, figure)
            for axes in figure.axes:
                axes.grid(color="#e6e8eb", linewidth=0.8)
                axes.spines[["top", "right"]].set_visible(False)
            text = StringIO()
            figure.savefig(text, format="svg", metadata={"Date": None, "Creator": "sublayer"})
        with written_aside(path) as aside:
            aside.write_text(text.getvalue(), encoding="utf-8")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown, the first column of words and the others of numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def colour(number: int) -> str:
    """Of the line of this number."""
    return COLOURS[number % len(COLOURS)]


def machine(runs: Iterable[Finished]) -> str:
    """A sentence on what else the machine did while they were trained."""
    others = [run.others for run in runs]
    known = [each for each in others if each is not None]
    if not known:
        return "What else the machine did is not known."
    return (
        f"While these {len(others)} runs were trained, other processes had {sum(known) / len(known):.2f} cores on "
        f"average, and {max(known):.2f} during the most disturbed run."
    )
