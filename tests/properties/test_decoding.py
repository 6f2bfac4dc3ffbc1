"""Decoding with a state equals one full pass, however the tokens are cut up, padded, packed, selected and taken back.

Each example plays a random game with a state, and keeps beside it a plain list of what every row has seen.  After every
call the new logits are compared with full passes over these lists, one document at a time.
"""

from dataclasses import dataclass, field
from itertools import groupby, product

import torch
from hypothesis import assume, note
from hypothesis import strategies as st
from torch import Tensor

from sublayer.model import Layout, ModelConfig, State, Transformer
from tests.properties.composition import (
    MAX_LENGTH,
    VOCAB_SIZE,
    assert_equal_logits,
    compositions,
    law,
    lively,
    logits_alone,
)


@dataclass
class Seen:
    """One row's tokens, each with its document and its position in it."""

    tokens: list[int] = field(default_factory=list)
    documents: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    most: int = 0
    """The largest number of tokens that the row ever held."""

    def copy(self) -> "Seen":
        return Seen(list(self.tokens), list(self.documents), list(self.positions), self.most)

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

    def logits(self, model: Transformer) -> Tensor:
        """Of all tokens, each document in a full pass of its own."""
        places = groupby(range(len(self.tokens)), key=self.documents.__getitem__)
        return torch.cat(
            [
                logits_alone(model, [self.tokens[i] for i in run], [self.positions[i] for i in run])
                for run in ([*places_] for _, places_ in places)
            ]
        )


@dataclass(frozen=True)
class Style:
    """What the calls of an example may do; all False is the plain batch of equal rows."""

    ragged: bool
    packed: bool
    skips: bool


styles = st.sampled_from([Style(*flags) for flags in product([False, True], repeat=3)])


class Game:
    """A model and its state on one side, and lists of what each row has seen on the other."""

    def __init__(self, model: Transformer, data: st.DataObject, style: Style) -> None:
        self.model, self.data, self.style = model, data, style
        self.room = data.draw(st.integers(6, 24), label="max_length")
        self.max_rewind = data.draw(st.sampled_from([4, 3, 2, 1, 0]), label="max_rewind")
        self.rows = [Seen() for _ in range(data.draw(st.integers(1, 3), label="rows"))]
        self.state: State = model.init_state(len(self.rows), self.room, max_rewind=self.max_rewind)
        self.next_document = 1

    def play(self, n_moves: int) -> None:
        self.feed()
        self.feed()
        for _ in range(n_moves):
            move = self.data.draw(
                st.sampled_from([self.rewind, self.feed, self.feed, self.rewind, self.select]), label="move"
            )
            move()
        self.feed()

    def feed(self) -> None:
        width = self.data.draw(st.sampled_from([5, 1, 2, 3, 1, 9]), label="width")
        free = [self.room - len(row.tokens) for row in self.rows]
        if self.style.ragged:
            counts = [self.data.draw(st.integers(0, min(width, most)), label="valid") for most in free]
        else:
            width = min(width, *free)
            counts = [width] * len(self.rows)
        if width == 0:
            return
        at_left = self.style.ragged and self.data.draw(st.booleans(), label="padding at the left")
        packed = self.style.packed and self.data.draw(st.sampled_from([True, True, False]), label="documents given")
        skips = self.style.skips and self.data.draw(st.booleans(), label="positions given")

        shape = (len(self.rows), width)
        tokens, valid = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool)
        documents, positions = torch.full(shape, -1), torch.zeros(shape, dtype=torch.int64)
        for number, (row, count) in enumerate(zip(self.rows, counts, strict=True)):
            for offset in range(count):
                column = width - count + offset if at_left else offset
                token = self.data.draw(st.integers(0, VOCAB_SIZE - 1))
                document = self._document(row) if packed else None
                near = not row.positions or row.positions[-1] < MAX_LENGTH // 2
                step = self.data.draw(st.integers(1, 3)) if skips and near else 1
                row.append(token, document, step)
                tokens[number, column], valid[number, column] = token, True
                documents[number, column], positions[number, column] = row.documents[-1], row.positions[-1]
        layout = Layout(
            positions_BT=positions if skips else None,
            document_BT=documents if packed else None,
            valid_BT=valid if self.style.ragged else None,
        )
        note(f"feed {counts} of {width}{' (left)' * at_left}: {layout if not layout.plain else 'plain'}")

        logits = self.model(tokens, None if layout.plain else layout, state=self.state).logits
        assert logits is not None
        assert self.state.length_B.tolist() == [len(row.tokens) for row in self.rows]
        for number, (row, count) in enumerate(zip(self.rows, counts, strict=True)):
            if count:
                assert_equal_logits(logits[number][valid[number]], row.logits(self.model)[-count:])

    def _document(self, row: Seen) -> int:
        """The document of the row's next token: the last one's, or a new one."""
        if row.documents and self.data.draw(st.integers(0, 3)) != 0:
            return row.documents[-1]
        self.next_document += 1
        return self.next_document

    def select(self) -> None:
        chosen = self.data.draw(st.lists(st.integers(0, len(self.rows) - 1), min_size=1, max_size=3), label="select")
        self.state.select(chosen)
        self.rows = [self.rows[number].copy() for number in chosen]

    def rewind(self) -> None:
        most = [min(len(row.tokens), self.max_rewind - (row.most - len(row.tokens))) for row in self.rows]
        if self.style.ragged:
            steps = [self.data.draw(st.sampled_from([limit, limit // 2, 0]), label="rewind") for limit in most]
            self.state.rewind(torch.tensor(steps))
        else:
            steps = [self.data.draw(st.sampled_from([min(most), min(most) // 2]), label="rewind")] * len(self.rows)
            self.state.rewind(steps[0])
        for row, n_tokens in zip(self.rows, steps, strict=True):
            row.forget(n_tokens)


def decodes_so_far(composition: ModelConfig) -> bool:
    """Whether cached decoding is said to be exact for the longest row of a game."""
    exact = composition.cache_exact()
    return not exact.reason and (exact.length is None or exact.length >= MAX_LENGTH)


@law(
    examples=130,
    composition=compositions(stack="decoder"),
    style=styles,
    n_moves=st.integers(1, 5),
    data=st.data(),
)
def test_decoding_with_a_state_equals_one_full_pass(
    composition: ModelConfig, style: Style, n_moves: int, data: st.DataObject
) -> None:
    assume(decodes_so_far(composition))
    with torch.no_grad():
        Game(lively(composition), data, style).play(n_moves)


def windowed(sinks: int) -> dict[str, object]:
    window = {"kind": "window", "size": 3, "sinks": sinks}
    return {"attention": {"n_heads": 2, "pattern": window}, "n_layers": 2, "layers": []}


@law(
    examples=70,
    composition=compositions(stack="decoder", fixed=windowed(0)),
    style=styles,
    n_moves=st.integers(1, 5),
    data=st.data(),
)
def test_a_ring_buffer_equals_one_full_pass(
    composition: ModelConfig, style: Style, n_moves: int, data: st.DataObject
) -> None:
    assume(decodes_so_far(composition))
    with torch.no_grad():
        Game(lively(composition), data, style).play(n_moves)


@law(
    examples=70,
    composition=st.sampled_from([1, 2, 4]).flatmap(lambda n: compositions(stack="decoder", fixed=windowed(n))),
    style=styles,
    n_moves=st.integers(1, 6),
    data=st.data(),
)
def test_a_ring_with_sinks_equals_one_full_pass(
    composition: ModelConfig, style: Style, n_moves: int, data: st.DataObject
) -> None:
    assume(decodes_so_far(composition))
    with torch.no_grad():
        Game(lively(composition), data, style).play(n_moves)
