"""How many compositions were drawn and how many were legal, which parts they had, and what was stated of them."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from sublayer.model import ModelConfig
from sublayer.model.part import ModelPart
from sublayer.registry import Registry

LEAST_SHARE = 0.3
"""Of the compositions that are drawn, how many must be legal."""

MANY, LEAST = 5000, 50
"""Of so many compositions, how many must have each registered kind."""


class Tally:
    """Counts of a test run; those of several processes can be added."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {
            name: Counter() for name in ("drawn", "refused", "parts", "statements", "seconds")
        }

    @property
    def drawn(self) -> int:
        return self.counts["drawn"]["all"]

    @property
    def legal(self) -> int:
        return self.counts["drawn"]["legal"]

    @property
    def share(self) -> float:
        """Of the drawn ones, how many were legal."""
        return self.legal / max(1, self.drawn)

    def as_tree(self) -> dict[str, dict[str, int]]:
        return {name: dict(counter) for name, counter in self.counts.items()}

    def add(self, tree: dict[str, dict[str, int]]) -> None:
        for name, counter in tree.items():
            self.counts[name].update(counter)

    def refuse(self, message: str) -> None:
        """Counts a refused composition, like ones together: without the place and the numbers in the sentence."""
        self.counts["drawn"].update(["all"])
        self.counts["refused"][re.sub(r"\d+", "N", re.sub(r"^[\w.\[\]]+: ", "", message))] += 1

    def count(self, config: ModelConfig) -> None:
        """Counts a legal composition, and each of its parts once, however many layers have it."""
        self.counts["drawn"].update(["all", "legal"])
        layers = config.all_layers()
        found = set(kinds_of(config)) | {("stack", config.stack)}
        found.add(("embeddings", "tied" if config.tied_embeddings else "untied"))
        found |= {("kernel", getattr(layer.attention, "kernel", "its own")) for layer in layers}
        if len(set(config.resolve())) > 1:
            found.add(("layers", "unequal"))
        self.counts["parts"].update(f"{family} {kind}" for family, kind in found)

    def applied(self, statement: str, seconds: float) -> None:
        """Counts a statement that was put to a composition, and found true."""
        self.counts["statements"][statement] += 1
        self.counts["seconds"][statement] += seconds

    def too_few(self) -> list[str]:
        """After a run over many compositions, the registered kinds of the model's families that appeared too rarely."""
        return self.rare(LEAST) if self.legal >= MANY else []

    def rare(self, least: int) -> list[str]:
        """The registered kinds of the model's families that appeared less often than that."""
        kinds = [f"{family} {part.kind_name()}" for family, registry in families() for part in registry]
        kinds += [f"stack {stack}" for stack in ("decoder", "encoder", "encoder_decoder")]
        return [f"{kind} ({self.counts['parts'][kind]})" for kind in kinds if self.counts["parts"][kind] < least]

    def lines(self) -> Iterator[str]:
        seconds = sum(self.counts["seconds"].values())
        yield f"{self.drawn} drawn, {self.legal} legal ({self.share:.0%}); {seconds:.0f} s of statements"
        for family, names in self._by_family().items():
            yield f"{family}: " + ", ".join(f"{name} {count}" for name, count in names)
        for statement, count in sorted(self.counts["statements"].items()):
            yield f"put to {count}, {self.counts['seconds'][statement] / count * 1000:.0f} ms each: {statement}"
        if self.too_few():
            yield f"FAILED: in fewer than {LEAST} compositions: {', '.join(self.too_few())}"
        for reason, count in self.counts["refused"].most_common():
            yield f"refused {count}: {reason}"

    def _by_family(self) -> dict[str, list[tuple[str, int]]]:
        groups: dict[str, list[tuple[str, int]]] = {}
        for name, count in sorted(self.counts["parts"].items()):
            family, _, kind = name.partition(" ")
            groups.setdefault(family, []).append((kind, count))
        return groups


def families() -> list[tuple[str, Registry[Any]]]:
    """The families of the model's parts."""
    return [
        (name, registry)
        for name, registry in Registry.families.items()
        if any(issubclass(part, ModelPart) for part in registry)
    ]


def kinds_of(config: ModelConfig) -> set[tuple[str, str]]:
    """Family and kind of every part of a composition, those inside others included."""
    found = [part for layer in config.all_layers() for _, part in layer.parts()] + [config.head]
    found += [config.embedding.norm] if config.embedding.norm is not None else []
    return {(part.registry.family, part.kind_name()) for part in found}


TALLY = Tally()
"""Of the grid."""
