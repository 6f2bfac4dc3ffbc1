"""Telling what class a text is of.

Shape suffixes: B batch (rows), N tokens, D documents, R rows.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator

from sublayer.data.document import label_text
from sublayer.data.objective.base import OBJECTIVES, Objective, ObjectiveConfig, RowShape, Stack, Stretch
from sublayer.data.permutation import Words
from sublayer.data.rows import Rows
from sublayer.data.split import SIDES, Side
from sublayer.errors import DataError

if TYPE_CHECKING:
    from sublayer.data.packing import Batch
    from sublayer.data.shards import Shards, Tokens, TokenStream
    from sublayer.data.sources import SourceConfig
    from sublayer.data.tokenizer import Tokenizer

STEP = 16
"""Batches are as long as their longest row, rounded up to a multiple of this: few lengths, and little padding."""


def _as_labels(value: Any) -> Any:
    return tuple(map(label_text, value)) if isinstance(value, list | tuple) else value


def _several(classes: tuple[str, ...]) -> tuple[str, ...]:
    if classes and (len(classes) < 2 or len(set(classes)) < len(classes)):
        raise ValueError("must name at least two classes, each once")
    return classes


@OBJECTIVES.register
class ClassifyConfig(ObjectiveConfig):
    """The class of each text is told, by a head over classes (`model.head: classes`).

    A row holds a single text behind the end token.  The names of the classes are saved with the model.
    """

    paper: ClassVar[str] = "Devlin et al. 2018, BERT, §4.1; with a decoder: Radford et al. 2018, §3.2"
    stacks: ClassVar[tuple[Stack, ...]] = ("encoder", "decoder")
    classifies: ClassVar[bool] = True
    tells_accuracy: ClassVar[bool] = True
    ahead: ClassVar[int] = 0

    kind: Literal["classify"] = "classify"
    label: Literal["given", "domain"] = "given"
    """What the class of a document is: the label that its source gives (kind labelled), or its domain."""
    classes: Annotated[
        tuple[str, ...],
        BeforeValidator(_as_labels, json_schema_input_type=tuple[str | int | bool, ...]),
        AfterValidator(_several),
    ] = ()
    """The names of the classes in order; left out, those that training has, sorted."""
    long: Literal["cut", "pieces"] = "cut"
    """What becomes of a document longer than a row: it is cut off, or divided evenly into rows of the same class."""

    def unfit(self, stack: Stack) -> str:
        return "" if stack in self.stacks else "has one text to read, and an encoder_decoder needs two"

    def check(
        self, sequence_length: int, sources: Sequence["SourceConfig"], validation: Sequence["SourceConfig"]
    ) -> None:
        if sequence_length < 2:
            raise ValueError("classify needs rows of at least 2 tokens; raise data.sequence_length")
        for source in (*sources, *validation):
            if self.label == "given" and not source.labelled:
                raise ValueError(
                    f"classify learns from labels, and a source of kind {source.kind_name()} gives none; take one of "
                    "kind labelled, or have the domains be the classes with data.objective.label: domain"
                )
        if self.label == "domain" and not self.classes and len(sources) == 1 and sources[0].of_one_domain():
            raise ValueError(
                f"classify needs two classes at least, and all that a source of kind {sources[0].kind_name()} gives is "
                "of one domain; name sources of several, or classify by labels"
            )

    def named_classes(self) -> tuple[str, ...]:
        return self.classes

    def classes_in(self, shards: "Shards") -> tuple[str, ...]:
        learnt, held_out = (self._found(shards, side) for side in SIDES)
        for label in sorted(learnt | held_out) if self.classes else ():
            if label not in self.classes:
                raise DataError(
                    f"data.objective.classes: the data has the class '{label}', which is none of "
                    f"{', '.join(self.classes)}; name it as well, or leave classes out."
                )
        classes = self.classes or tuple(sorted(learnt, key=_in_order(learnt)))
        for label in sorted(held_out.difference(classes)):
            by_domain = self.label == "domain"
            raise DataError(
                f"data.objective: held-out text is of the class '{label}', which training has none of (it has "
                f"{', '.join(classes)}); "
                + ("give the validation source the domain of one of those" if by_domain else "mend the labels")
                + ", or name all classes in data.objective.classes."
            )
        if len(classes) < 2:
            raise DataError(
                "data.objective: classify needs two classes at least, and all of the data is "
                f"{', '.join(classes) or 'without a label'}."
            )
        return classes

    def _found(self, shards: "Shards", side: Side) -> set[str]:
        """The classes on a side."""
        streams = [stream for stream in shards.streams if stream.side == side]
        if self.label == "domain":
            return {stream.domain for stream in streams}
        times = sum(
            np.bincount(shards.documents(stream, "labels"), minlength=len(shards.labels))
            for stream in streams
            if stream.labelled
        )
        return {shards.labels[number] for number in np.flatnonzero(times)}

    def shape(self, sequence_length: int, isolate_documents: bool) -> RowShape:
        return RowShape(sequence_length, one_target=True)

    def build(self, tokenizer: "Tokenizer", sequence_length: int, isolate_documents: bool) -> Objective:
        return Classify(self, tokenizer.end_id, sequence_length)


class Classify(Objective):
    """Rows of a text each, and as targets their classes."""

    def __init__(self, config: ClassifyConfig, end_id: int, length: int) -> None:
        self._config, self._end_id, self._length = config, end_id, length
        self.needed = 2

    def rows(self, shards: "Shards", stream: "TokenStream") -> Rows:
        number = {name: number for number, name in enumerate(self._config.classes_in(shards))}
        length_D = shards.documents(stream, "lengths")
        if self._config.label == "domain":
            label_D = np.full(len(length_D), number[stream.domain])
        elif stream.labelled:
            numbers = np.array([number[name] for name in shards.labels])
            label_D = numbers[shards.documents(stream, "labels")]
        else:
            raise DataError(f"data.objective: classify learns from labels, and '{stream.domain}' has none.")
        pieces = self._config.long == "pieces"
        # Plain text has no end token inside a document.
        second_D = _second(shards.tokens(stream), length_D, self._end_id) if pieces and stream.marked else None
        return Texts(length_D, label_D, self._length, pieces, second_D)

    def batch(self, stretches: Sequence[Stretch], key_B: Words | None) -> "Batch":
        import torch

        from sublayer.data.packing import Batch, laid_out, segments

        rows = [stretch.tokens for stretch in stretches]
        # Pieces of a document but the first have no token that begins it.
        begin = np.array([self._end_id], dtype=rows[0].dtype)
        rows = [row if row[0] == self._end_id else np.concatenate((begin, row)) for row in rows]
        length = min(self._length, -(-max(map(len, rows)) // STEP) * STEP)
        laid = laid_out(rows, [None] * len(rows), length, self._end_id, isolate_documents=False)
        tokens, _, _, valid = laid.tensors()
        classes = torch.tensor([stretch.label for stretch in stretches])
        segment = segments(tokens, valid, self._end_id, [stretch.segment > 0 for stretch in stretches])
        return Batch(tokens, classes, None, None, valid, segment_BT=segment)


class Texts(Rows):
    """A row reads one document, or one of the even pieces of it.

    Args:
        length_D: tokens of each document, with the one that begins it.
        label_D: the number of its class.
        length: T; that many tokens of a document are read, or of a piece, in front of which the one that begins a
            document is put again.
        pieces: divide longer documents, instead of cutting them off.
        second_D: where in the stream the end token stands behind which the second text of a document is; left out,
            documents are one text each.
    """

    def __init__(
        self,
        length_D: NDArray[np.uint32],
        label_D: NDArray[np.int64],
        length: int,
        pieces: bool,
        second_D: NDArray[np.int64] | None = None,
    ) -> None:
        size_D = length_D.astype(np.int64)
        begin_D = np.cumsum(size_D) - size_D
        number_D = np.maximum(1, -(-(size_D - 1) // (length - 1))) if pieces else np.ones_like(size_D)
        document_R = np.repeat(np.arange(len(size_D)), number_D)
        piece_R = np.arange(len(document_R)) - np.repeat(np.cumsum(number_D) - number_D, number_D)
        # Behind the first token, the text is divided evenly, so that no piece is a few last words.
        text_R, of_R = size_D[document_R] - 1, number_D[document_R]
        first_R, last_R = 1 + piece_R * text_R // of_R, 1 + (piece_R + 1) * text_R // of_R
        self._begin_R = begin_D[document_R] + np.where(piece_R == 0, 0, first_R)
        self._end_R = begin_D[document_R] + last_R
        if not pieces:
            self.truncated = int(np.count_nonzero(size_D > length))
            self._end_R = np.minimum(self._end_R, self._begin_R + length)
        self._label_R = label_D[document_R]
        self._segment_R = None if second_D is None else self._begin_R >= second_D[document_R]
        self.filled = int((self._end_R - self._begin_R + (piece_R > 0)).sum())

    def __len__(self) -> int:
        return len(self._begin_R)

    def stretch(self, row: int) -> tuple[int, int]:
        return int(self._begin_R[row]), int(self._end_R[row])

    def label(self, row: int) -> int:
        return int(self._label_R[row])

    def segment(self, row: int) -> int:
        return 0 if self._segment_R is None else int(self._segment_R[row])


def _second(token_N: "Tokens", length_D: NDArray[np.uint32], end_id: int) -> NDArray[np.int64]:
    """Where in a stream the first end token inside each document stands; its end where there is none, [D]."""
    begin_D = np.cumsum(length_D, dtype=np.int64) - length_D
    inside = np.setdiff1d(np.flatnonzero(token_N == end_id), begin_D, assume_unique=True)
    second_D = np.full(len(begin_D), len(token_N))
    np.minimum.at(second_D, np.searchsorted(begin_D, inside, side="right") - 1, inside)
    return second_D


def _in_order(labels: set[str]) -> Callable[[str], Any]:
    """What labels are sorted by: whole numbers by their value, and equal ones by how they are written."""
    if all(label.removeprefix("-").isdecimal() for label in labels):
        return lambda label: (int(label), label)
    return str
