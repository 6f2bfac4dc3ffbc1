"""Decoding with a state equals one full pass, however the tokens are cut up, padded, packed, selected and taken back.

A game is played with a state, and beside it a plain list is kept of what every row has seen.  After every call the new
logits are compared with full passes over these lists, one document at a time.
"""

import random
from dataclasses import dataclass, field
from itertools import groupby

import pytest
import torch
from hypothesis import currently_in_test_context, note
from torch import Tensor

from sublayer.model import Layout, ModelConfig, Source, State
from tests.properties.composition import MAX_LENGTH, assert_equal_logits, logits_alone, random_tokens
from tests.properties.statement import Subject, alone, decodes, some_tokens, statement


def remark(text: str) -> None:
    """To be printed when a test by hypothesis fails."""
    if currently_in_test_context():
        note(text)


@dataclass
class Seen:
    """One row's tokens, each with its document and its position in it."""

    tokens: list[int] = field(default_factory=list)
    documents: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    most: int = 0
    """The largest number of tokens that the row ever held."""
    sources: dict[int, list[int]] | None = None
    """What there is to read of each document, where a source is."""

    def copy(self) -> "Seen":
        return Seen(list(self.tokens), list(self.documents), list(self.positions), self.most, self.sources)

    def append(self, token: int, document: int | None, step: int) -> None:
        """The next token; without a document, of the last one's; `step` positions further."""
        if document is None:
            document = self.documents[-1] if self.documents else 0
        goes_on = bool(self.documents) and document == self.documents[-1]
        self.positions.append(self.positions[-1] + step if goes_on else 0)
        self.documents.append(document)
        self.tokens.append(token)
        self.most = max(self.most, len(self.tokens))

    def forget(self, n_tokens: int) -> None:
        keep = len(self.tokens) - n_tokens
        del self.tokens[keep:], self.documents[keep:], self.positions[keep:]

    def logits(self, subject: Subject, n_last: int) -> Tensor:
        """Of the last tokens, each document in a full pass of its own."""
        runs = [[*places] for _, places in groupby(range(len(self.tokens)), key=self.documents.__getitem__)]
        wanted = [run for run in runs if run[-1] >= len(self.tokens) - n_last]
        told = [
            logits_alone(
                subject.model,
                [self.tokens[i] for i in run],
                [self.positions[i] for i in run],
                None if self.sources is None else self.sources[self.documents[run[0]]],
            )
            for run in wanted
        ]
        return torch.cat(told)[-n_last:]


@dataclass(frozen=True)
class Style:
    """What the calls of a game may do; all False is the plain batch of equal rows."""

    ragged: bool
    packed: bool
    skips: bool


class Game:
    """A model and its state on one side, and lists of what each row has seen on the other."""

    def __init__(self, subject: Subject, dice: random.Random, style: Style, limit: int) -> None:
        self.subject, self.dice, self.style, self.limit = subject, dice, style, limit
        self.room = dice.randint(min(6, limit), min(20, limit))
        self.max_rewind = dice.choice([4, 3, 2, 1, 0])
        self.rows = [Seen() for _ in range(dice.randint(1, 3))]
        self.state: State = subject.model.init_state(len(self.rows), self.room, max_rewind=self.max_rewind)
        self.next_document = 1
        self.source = self._sources() if subject.paired else None

    def play(self, n_moves: int) -> None:
        self.feed()
        self.feed()
        for _ in range(n_moves):
            self.dice.choice([self.rewind, self.feed, self.feed, self.rewind, self.select])()
        self.feed()

    def _sources(self) -> Source:
        """A text to read for each document that there may be, packed into one row, or one for each row."""
        numbers = [0, *range(2, 9)] if self.style.packed else [0]
        for row in self.rows:
            row.sources = {number: some_tokens(self.dice, self.dice.randint(1, 3)) for number in numbers}
        texts = [[token for text in (row.sources or {}).values() for token in text] for row in self.rows]
        named = [[number for number, text in (row.sources or {}).items() for _ in text] for row in self.rows]
        width = max(map(len, texts))
        valid = torch.tensor([[column < len(text) for column in range(width)] for text in texts])
        tokens, documents = (
            torch.tensor([numbers + [0] * (width - len(numbers)) for numbers in rows]) for rows in (texts, named)
        )
        return Source(tokens, Layout(document_BT=documents if self.style.packed else None, valid_BT=valid))

    def feed(self) -> None:
        width = self.dice.choice([5, 1, 2, 3, 1, 9])
        free = [self.room - len(row.tokens) for row in self.rows]
        if self.style.ragged:
            counts = [self.dice.randint(0, min(width, most)) for most in free]
        else:
            width = min(width, *free)
            counts = [width] * len(self.rows)
        if width == 0:
            return
        at_left = self.style.ragged and self.dice.random() < 0.5
        # With a source, a row that says its documents says them always, as the source does.
        packed = self.style.packed and (self.source is not None or self.dice.random() < 0.67)
        skips = self.style.skips and self.dice.random() < 0.5

        shape = (len(self.rows), width)
        tokens, valid = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool)
        documents, positions = torch.full(shape, -1), torch.zeros(shape, dtype=torch.int64)
        for number, (row, count) in enumerate(zip(self.rows, counts, strict=True)):
            for offset in range(count):
                column = width - count + offset if at_left else offset
                [token] = some_tokens(self.dice, 1)
                row.append(token, self._document(row) if packed else None, self._step(row) if skips else 1)
                tokens[number, column], valid[number, column] = token, True
                documents[number, column], positions[number, column] = row.documents[-1], row.positions[-1]
        layout = Layout(
            positions_BT=positions if skips else None,
            document_BT=documents if packed else None,
            valid_BT=valid if self.style.ragged else None,
        )
        remark(f"feed {counts} of {width}{' (left)' * at_left}: {layout if not layout.plain else 'plain'}")

        source = None if self.state.sourced else self.source
        logits = self.subject.model(tokens, None if layout.plain else layout, source=source, state=self.state).logits
        assert logits is not None
        assert self.state.length_B.tolist() == [len(row.tokens) for row in self.rows]
        for number, (row, count) in enumerate(zip(self.rows, counts, strict=True)):
            if count:
                assert_equal_logits(logits[number][valid[number]], row.logits(self.subject, count))

    def _step(self, row: Seen) -> int:
        """How many positions further the next token stands: all that may still come must find one."""
        last = row.positions[-1] if row.positions else 0
        spare = self.limit - 1 - last - (self.room - len(row.tokens)) - self.max_rewind
        return self.dice.randint(1, 3) if spare > 3 else 1

    def _document(self, row: Seen) -> int:
        """The document of the row's next token: the last one's, or a new one."""
        if row.documents and self.dice.random() < 0.75:
            return row.documents[-1]
        if self.source is not None:  # of those that there is something to read of, each once
            new = [number for number in row.sources or {} if number not in row.documents]
            return new[0] if new else row.documents[-1]
        self.next_document += 1
        return self.next_document

    def select(self) -> None:
        chosen = [self.dice.randrange(len(self.rows)) for _ in range(self.dice.randint(1, 3))]
        remark(f"select {chosen}")
        self.state.select(chosen)
        self.rows = [self.rows[number].copy() for number in chosen]

    def rewind(self) -> None:
        most = [min(len(row.tokens), self.max_rewind - (row.most - len(row.tokens))) for row in self.rows]
        if self.style.ragged:
            steps = [self.dice.choice([limit, limit // 2, 0]) for limit in most]
            self.state.rewind(torch.tensor(steps))
        else:
            steps = [self.dice.choice([min(most), min(most) // 2])] * len(self.rows)
            self.state.rewind(steps[0])
        remark(f"rewind {steps}")
        for row, n_tokens in zip(self.rows, steps, strict=True):
            row.forget(n_tokens)


def limit_of(config: ModelConfig) -> int:
    """Up to which position cached decoding is exact, by what the parts say, and no longer than the tests are."""
    ends = (MAX_LENGTH, config.cache_exact().length, config.longest())
    return min(end for end in ends if end is not None)


@statement(lambda config: decodes(config) and not config.cache_exact().reason and alone(config))
def decoding_with_a_state_equals_one_full_pass(subject: Subject, dice: random.Random) -> None:
    style = Style(*(dice.random() < 0.5 for _ in range(3)))
    remark(str(style))
    with torch.no_grad():
        Game(subject, dice, style, limit_of(subject.config)).play(dice.randint(1, 4))


@statement(lambda config: decodes(config) and (bool(config.cache_exact().reason) or limit_of(config) < MAX_LENGTH))
def decoding_that_would_not_be_exact_is_refused(subject: Subject, dice: random.Random) -> None:
    """Beyond the length up to which the parts say that it is, or at all."""
    exact = subject.config.cache_exact()
    longer = limit_of(subject.config) if exact.reason else limit_of(subject.config) + 1
    with pytest.raises(ValueError, match=r"would not equal full passes|ask for no more"):
        subject.model.init_state(1, longer)


@statement(lambda config: config.longest() is not None)
def a_sequence_beyond_the_positions_is_refused(subject: Subject, dice: random.Random) -> None:
    longest = subject.config.longest()
    assert longest is not None
    tokens = random_tokens(1, 1, longest + 1)
    with pytest.raises(ValueError, match=f"positions end at {longest}"):
        subject.logits(tokens)
    with torch.no_grad():
        assert subject.logits(tokens[:, :-1]).isfinite().all()
