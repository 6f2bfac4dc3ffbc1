"""What `sublayer data` shows: tables, bars, and packed rows in colour.

Shapes: B rows, T tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from sublayer.data import Corpus
from sublayer.data.description import Description, Duplicates, Lengths, SideFigures
from sublayer.data.packing import NOT_SCORED

BAR = 40
"""Characters of the longest bar."""

DOCUMENTS = ("cyan", "yellow")
"""Colours that neighbouring documents of a row have by turns."""


def show_figures(description: Description, steps: int, warnings: Sequence[str], console: Console) -> None:
    """Print all that is told of a corpus but its samples.

    Args:
        description: the figures.
        steps: of the training that `epochs` are of.
        warnings: sentences to end with.
        console: where to.
    """
    vocabulary = f"{description.tokenizer['kind']}, {description.tokenizer['vocab_size']:,} tokens"
    console.print(_sides(description))
    console.print(f"tokenizer: {vocabulary} · rows of {description.sequence_length:,} tokens", style="dim")
    console.print()
    if in_segments := [side for side in description.sides if side.segments]:
        console.print(_whole(in_segments))
        console.print()
    console.print(_sources(description, steps))
    console.print(f"share of the training by domain: {_shares(description)}", style="dim")
    for lengths in description.lengths:
        console.print()
        figures = f"median {lengths.median:,.0f}, mean {lengths.mean:,.0f}, longest {lengths.longest:,}"
        console.print(Text(f"tokens a document: {lengths.domain}", style="bold"), Text(figures, style="dim"))
        console.print(_histogram(lengths))
    console.print()
    _duplicates("documents that come again in the training", description.duplicates, console)
    _duplicates("held-out documents that stand in the training", description.leakage, console)
    _skipped(description, console)
    for warning in warnings:
        console.print(warning, style="yellow", markup=False)


def show_samples(corpus: Corpus, seed: int, count: int, console: Console) -> None:
    """Print rows as training reads them.

    Documents alternate in colour, what is not scored is dim, and special tokens are inverse.  Without colours,
    documents are parted by `‖`, what is not scored stands in `‹›`, and special tokens in `⟦⟧`.  Rows with two sides
    show both, and rows with a class say which.

    Args:
        corpus: the data.
        seed: of the data order.
        count: how many rows.
        console: where to.
    """
    if not count:
        return
    colours = console.color_system is not None
    console.print()
    legend = (
        "documents alternate in colour, what is not scored is dim, special tokens are inverse"
        if colours
        else "‖ parts documents, ‹ › holds what is not scored, ⟦ ⟧ special tokens"
    )
    batch = corpus.batch(seed, 0, count)
    for row in range(count):
        console.rule(Text(f"row {row}: {legend}" if not row else f"row {row}", style="dim"), align="left", style="dim")
        targets = batch.targets_BT[row]
        if targets.ndim == 0:
            console.print(f"class: {corpus.classes[int(targets)]}", markup=False)
            targets = torch.full_like(batch.tokens_BT[row], NOT_SCORED)
        if batch.source is not None:
            source = batch.source
            unscored = torch.full_like(source.tokens_BS[row], NOT_SCORED)
            side = _Side(source.tokens_BS[row], unscored, _row(source.document_BS, row), _row(source.valid_BS, row))
            console.print("read:", style="dim")
            _show_side(corpus, side, 0, colours, console)
            console.print("written:", style="dim")
        side = _Side(batch.tokens_BT[row], targets, _row(batch.document_BT, row), _row(batch.valid_BT, row))
        _show_side(corpus, side, corpus.config.objective.ahead, colours, console)


class _Side(NamedTuple):
    """A row of one side: inputs, targets, documents and what is no padding, [T] each."""

    tokens: Tensor
    targets: Tensor
    document: Tensor | None
    valid: Tensor | None


def _row(values: Tensor | None, row: int) -> Tensor | None:
    return None if values is None else values[row]


def _show_side(corpus: Corpus, side: _Side, ahead: int, colours: bool, console: Console) -> None:
    """Print a row; where a target stands at the place of its input (ahead is 0), it is shown in its place."""
    tokens, targets = side.tokens.tolist(), side.targets.tolist()
    documents = [0] * len(tokens) if side.document is None else side.document.tolist()
    size = len(tokens) if side.valid is None else int(side.valid.sum())
    if not size:
        console.print("nothing but padding", style="dim")
        return
    shown, scored = tokens[:size], [target >= 0 for target in targets[:size]]
    if ahead:
        # A token is scored where it is the target of the one before; of the first, nobody can tell.
        shown, scored = [*shown, *targets[size - 1 : size]], [targets[0] >= 0, *scored]
        documents = [*documents[:size], documents[size - 1]]
    text = Text()
    for begin, end in _runs(list(zip(documents[: len(shown)], scored, strict=True))):
        if shown[begin] >= 0:  # the last one may be no target
            new = begin > 0 and documents[begin] != documents[begin - 1]
            text.append_text(_stretch(corpus, shown[begin:end], documents[begin], scored[begin], new, colours))
    console.print(text, soft_wrap=True)
    if hidden := [] if ahead else [target for target in targets[:size] if target >= 0]:
        answers = ", ".join(repr(corpus.tokenizer.decode([target])) for target in hidden)
        console.print(f"to be told: {answers}", style="dim", markup=False, soft_wrap=True)
    if size < len(tokens):
        console.print(f"and {len(tokens) - size:,} places of padding", style="dim")


def _runs(keys: Sequence[object]) -> list[tuple[int, int]]:
    """The stretches of equal keys: the first place of each, and the one behind its last."""
    begins = [place for place in range(len(keys)) if place == 0 or keys[place] != keys[place - 1]]
    return list(zip(begins, [*begins[1:], len(keys)], strict=True))


def _stretch(corpus: Corpus, tokens: list[int], document: int, scored: bool, new: bool, colours: bool) -> Text:
    """Tokens of one document that are all scored, or all not."""
    colour = DOCUMENTS[document % 2]
    text = Text("‖" if new and not colours else "")
    if not scored and not colours:
        text.append("‹")
    tokenizer = corpus.tokenizer
    special = [tokenizer.bytes_per_token[token] == 0 for token in tokens]
    for begin, end in _runs(special):
        if special[begin]:
            for token in tokens[begin:end]:
                name = tokenizer.name(token)
                text.append(name if colours else f"⟦{name}⟧", style=f"{colour} reverse" if colours else "")
        else:
            style = f"{colour}{'' if scored else ' dim'}" if colours else ""
            text.append(tokenizer.decode(tokens[begin:end]), style=style)
    if not scored and not colours:
        text.append("›")
    return text


def _table(title: str, columns: Sequence[str], n_text: int) -> Table:
    """A table of which the first columns hold text and the others numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < n_text else "right", header_style="dim")
    return table


def _sides(description: Description) -> Table:
    table = _table("text", ["domain", "side", "documents", "tokens", "bytes", "bytes/token", "rows"], 2)
    for side in description.sides:
        table.add_row(
            Text(side.domain),
            side.side,
            f"{side.documents:,}",
            f"{side.tokens:,}",
            f"{side.bytes:,}",
            f"{side.bytes_per_token:.2f}",
            f"{side.rows:,}",
            style="" if side.side == "training" else "dim",
        )
    return table


def _whole(sides: Sequence[SideFigures]) -> Table:
    """Of documents that rows hold whole, and are not scored in all places."""
    columns = ["domain", "side", "scored", "padding", "cut off", "rows without a target"]
    table = _table("documents in segments", columns, 2)
    for side in sides:
        table.add_row(
            Text(side.domain),
            side.side,
            f"{side.scored_tokens / side.tokens:.1%}",
            f"{side.padding:.1%}",
            f"{side.truncated:,}",
            f"{side.left_out:,}",
            style="" if side.side == "training" else "dim",
        )
    return table


def _sources(description: Description, steps: int) -> Table:
    table = _table("training", ["source", "domains", "weight", "share", f"epochs in {steps:,} steps"], 2)
    for source in description.sources:
        table.add_row(
            f"{source.source}: {source.kind}",
            Text(", ".join(source.domains)),
            f"{source.weight:g}",
            f"{source.share:.1%}",
            "" if source.epochs is None else f"{source.epochs:.2f}",
        )
    return table


def _shares(description: Description) -> str:
    return ", ".join(f"{domain} {share:.1%}" for domain, share in description.shares.items())


def _histogram(lengths: Lengths) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column()
    most = max(lengths.documents)
    first = next(place for place, count in enumerate(lengths.documents) if count)
    for at_least, count in list(zip(lengths.at_least, lengths.documents, strict=True))[first:]:
        table.add_row(f"{at_least:,} –", f"{count:,}", Text("█" * -(-BAR * count // most), style="cyan"))
    return table


def _duplicates(what: str, found: Duplicates, console: Console) -> None:
    console.print(f"{what}: {found.documents:,} ({found.share_of_bytes:.2%} of the bytes)", markup=False)
    for pair in found.examples:
        where = "" if pair.same_as_domain == pair.domain else f" in {pair.same_as_domain}"
        console.print(f"  {pair.domain}: {pair.document} = {pair.same_as}{where}", style="dim", markup=False)


def _skipped(description: Description, console: Console) -> None:
    for source in description.sources:
        for reason, count in source.skipped.items():
            where = source.first_skipped.get(reason, "")
            console.print(
                f"passed by in source {source.source} ({source.kind}): {count:,} × {reason}, first {where}",
                markup=False,
            )
    for reason, count in description.skipped_in_validation.items():
        console.print(f"passed by in data.validation: {count:,} × {reason}", markup=False)
