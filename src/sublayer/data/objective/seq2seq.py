"""Writing one text, given another.

Shape suffixes: N tokens, D documents, R rows.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sublayer.config import Count
from sublayer.data.objective.base import OBJECTIVES, Objective, ObjectiveConfig, RowShape, Stack, Stretch
from sublayer.data.permutation import Words
from sublayer.data.rows import Rows, together
from sublayer.data.tokenizing import BEGINS, SCORED
from sublayer.errors import DataError

if TYPE_CHECKING:
    from sublayer.data.packing import Batch, Piece
    from sublayer.data.shards import Shards, TokenStream
    from sublayer.data.sources import SourceConfig
    from sublayer.data.split import Side
    from sublayer.data.tokenizer import Tokenizer


@OBJECTIVES.register
class Seq2SeqConfig(ObjectiveConfig):
    """The encoder reads the one text of a pair, and the decoder writes the other.

    Of sources of pairs.  The decoder begins with the end token and writes another one behind its text.  A row holds as
    many pairs as fit on both sides, which do not see one another; what is longer than its side is cut off.
    """

    paper: ClassVar[str] = "Sutskever et al. 2014, eq. 1; with attention alone: Vaswani et al. 2017, §3"
    stacks: ClassVar[tuple[Stack, ...]] = ("encoder_decoder",)
    tells_bits: ClassVar[bool] = True

    kind: Literal["seq2seq"] = "seq2seq"
    target_length: Count | None = None
    """Tokens a row of the decoder; left out, as many as `data.sequence_length`."""

    def unfit(self, stack: Stack) -> str:
        return "" if stack in self.stacks else f"needs an encoder and a decoder, and this is one {stack}"

    def check(
        self, sequence_length: int, sources: Sequence["SourceConfig"], validation: Sequence["SourceConfig"]
    ) -> None:
        for source in (*sources, *validation):
            source.apart()

    def source(self, source: "SourceConfig") -> "SourceConfig":
        return source.apart()

    def cut_off(self, sequence_length: int, side: "Side") -> str:
        return (
            f"pairs for {side} are longer than a row ({sequence_length} tokens given, "
            f"{self.target_length or sequence_length} wanted) and cut off; raise data.sequence_length or "
            "data.objective.target_length to read them whole."
        )

    def shape(self, sequence_length: int, isolate_documents: bool) -> RowShape:
        return RowShape(self.target_length or sequence_length, sequence_length, packed=isolate_documents)

    def build(self, tokenizer: "Tokenizer", sequence_length: int, isolate_documents: bool) -> Objective:
        shape = self.shape(sequence_length, isolate_documents)
        return Seq2Seq(tokenizer.end_id, shape, sequence_length)


class Seq2Seq(Objective):
    """Rows of S tokens of what is given, and T of what is wanted."""

    def __init__(self, end_id: int, shape: RowShape, source_length: int) -> None:
        self._end_id, self._shape, self._source_length = end_id, shape, source_length
        self.needed = 1

    def rows(self, shards: "Shards", stream: "TokenStream") -> Rows:
        if not stream.marked:
            raise DataError(f"data.objective: seq2seq learns from pairs of texts, and '{stream.domain}' holds none.")
        lengths, scored = (shards.documents(stream, column) for column in ("lengths", "scored"))
        return Pairs(lengths, scored, self._source_length, self._shape.length)

    def batch(self, stretches: Sequence[Stretch], key_B: Words | None) -> "Batch":
        from sublayer.data.packing import two_sided

        rows = [self._pieces(stretch) for stretch in stretches]
        return two_sided(rows, self._source_length, self._shape.length, self._end_id, self._shape.packed)

    def _pieces(self, stretch: Stretch) -> list["Piece"]:
        from sublayer.data.packing import Piece

        assert stretch.marks is not None
        begins = np.flatnonzero(stretch.marks & BEGINS)
        pieces = []
        for begin, end in zip(begins.tolist(), [*begins[1:].tolist(), len(stretch.tokens)], strict=True):
            tokens_N = stretch.tokens[begin:end].astype(np.int64)
            scored_N = stretch.marks[begin:end] & SCORED > 0
            target_T = tokens_N[scored_N][: self._shape.length]
            inputs_T = np.concatenate(([self._end_id], target_T))[: len(target_T)]
            pieces.append(Piece(tokens_N[~scored_N][: self._source_length], inputs_T, target_T))
        return pieces


class Pairs(Rows):
    """A row reads consecutive pairs that fit on both sides, as many as do; one that does not fit stands alone, cut off.

    Args:
        length_D: tokens of each document.
        scored_D: those of them that are wanted.
        source_length: S, places for what is given.
        length: T, places for what is wanted.
    """

    def __init__(
        self, length_D: NDArray[np.uint32], scored_D: NDArray[np.uint32], source_length: int, length: int
    ) -> None:
        end_D = np.cumsum(length_D, dtype=np.int64)
        source_D, target_D = length_D.astype(np.int64) - scored_D, scored_D.astype(np.int64)
        first_R = together((source_D, source_length), (target_D, length))
        after_R = np.append(first_R[1:], len(end_D))
        self._begin_R, self._end_R = (end_D - length_D)[first_R], end_D[after_R - 1]
        read_D, written_D = np.minimum(source_D, source_length), np.minimum(target_D, length)
        self.filled = int(read_D.sum() + written_D.sum())
        self.truncated = int(np.count_nonzero((read_D < source_D) | (written_D < target_D)))

    def __len__(self) -> int:
        return len(self._begin_R)

    def stretch(self, row: int) -> tuple[int, int]:
        return int(self._begin_R[row]), int(self._end_R[row])
