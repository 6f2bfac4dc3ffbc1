"""Writing the stretches of a text that were left out of it.

Shape suffixes: N tokens, L lengths of a piece of text, D documents, R rows.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sublayer.config import Count, Positive, Share
from sublayer.data.objective.base import OBJECTIVES, Objective, ObjectiveConfig, RowShape, Stack, Stretch
from sublayer.data.permutation import Words, mixed
from sublayer.data.rows import Contiguous, Rows
from sublayer.data.tokenizer.alphabet import SENTINEL
from sublayer.errors import DataError

if TYPE_CHECKING:
    from sublayer.data.packing import Batch, Piece
    from sublayer.data.shards import Shards, TokenStream
    from sublayer.data.sources import SourceConfig
    from sublayer.data.tokenizer import Tokenizer

SHORTEST = 8
"""Tokens: where no more of a document fit in what is left of a row, that stays empty and the next row goes on."""

NOISE, REST = range(2)
"""Numbers of the draws made for each piece: how what is left out is divided, and what stays."""


@OBJECTIVES.register
class SpanCorruptionConfig(ObjectiveConfig):
    """Stretches of the text are left out, a sentinel standing for each, and the decoder writes them.

    The encoder reads `Thank you <extra_id_0> me to your party <extra_id_1> week`, and the decoder, beginning with the
    end token, writes `<extra_id_0> for inviting <extra_id_1> last` and the end token.  Each document in a row, or part
    of one, is corrupted by itself.  Another epoch draws anew; of held-out text the same stretches are left out every
    time.
    """

    paper: ClassVar[str] = "Raffel et al. 2020, T5, §3.1.4 and §3.3.4"
    stacks: ClassVar[tuple[Stack, ...]] = ("encoder_decoder",)

    kind: Literal["span_corruption"] = "span_corruption"
    share: Annotated[Share, Field(gt=0, lt=1)] = 0.15
    """Share of the tokens that are left out."""
    mean_length: Annotated[Positive, Field(ge=1)] = 3.0
    """How many tokens a stretch has on average."""
    sentinels: Count = 100
    """How many sentinels the tokenizer has; a row of `data.sequence_length` must need no more."""
    target_length: Annotated[Count, Field(ge=3)] | None = None
    """Tokens a row of the decoder; left out, what a row needs that is a single text.  Many short documents need more
    of it, and leave places of the encoder empty otherwise."""

    def unfit(self, stack: Stack) -> str:
        return "" if stack in self.stacks else f"needs an encoder and a decoder, and this is one {stack}"

    def check(
        self, sequence_length: int, sources: Sequence["SourceConfig"], validation: Sequence["SourceConfig"]
    ) -> None:
        super().check(sequence_length, sources, validation)
        for source in (*sources, *validation):
            if source.in_segments:
                raise ValueError(
                    f"span_corruption leaves out stretches of plain text, and a source of kind {source.kind_name()} "
                    "gives none; take seq2seq for pairs, or name sources of text"
                )
        if sequence_length < 2:
            raise ValueError("span_corruption needs rows of at least 2 tokens; raise data.sequence_length")
        # The default goes with the shortest rows as well.
        if self.mean_length > max(sequence_length, type(self).model_fields["mean_length"].default):
            raise ValueError(
                f"mean_length is {self.mean_length:g}, and a row has {sequence_length} tokens; lower "
                "data.objective.mean_length"
            )
        needed = int(Sizes(self, sequence_length).spans_L[-1])
        if needed > self.sentinels:
            raise ValueError(
                f"sentinels are {self.sentinels}, and a row of {sequence_length} tokens needs {needed}; raise "
                "data.objective.sentinels or data.objective.mean_length"
            )

    def special_tokens(self) -> tuple[tuple[str, ...], ...]:
        return tuple((SENTINEL.format(number),) for number in range(self.sentinels))

    def shape(self, sequence_length: int, isolate_documents: bool) -> RowShape:
        length = self.target_length or int(Sizes(self, sequence_length).target_L[-1])
        return RowShape(length, sequence_length, packed=isolate_documents)

    def build(self, tokenizer: "Tokenizer", sequence_length: int, isolate_documents: bool) -> Objective:
        shape = self.shape(sequence_length, isolate_documents)
        return SpanCorruption(self, tokenizer, shape, sequence_length)


class Sizes:
    """What becomes of a piece of so many tokens: how much is left out, in how many stretches, and how long both sides
    then are.  Only where the stretches lie is drawn.

    Args:
        config: the shares.
        source_length: S.

    Attributes:
        noise_L: tokens left out of a piece of 0, 1, 2, … tokens; the last piece is the longest that fits in S.
        spans_L: stretches that they make up.
        source_L: tokens that the encoder reads.
        target_L: tokens that the decoder writes, with the end token.
    """

    def __init__(self, config: SpanCorruptionConfig, source_length: int) -> None:
        kept = 1 - config.share * (1 - 1 / config.mean_length)
        size_L = np.arange(int(source_length / kept) + 4 * int(config.mean_length) + 4)
        # At least one token is left out, and one is left, wherever there are two.
        noise_L = np.clip(np.rint(size_L * config.share).astype(np.int64), 1, np.maximum(size_L - 1, 1))
        spans_L = np.rint(noise_L / config.mean_length).astype(np.int64)
        spans_L = np.clip(spans_L, 1, np.maximum(np.minimum(noise_L, size_L - noise_L), 1))
        noise_L[:2] = spans_L[:2] = 0
        source_L = size_L - noise_L + spans_L
        fits = int(np.searchsorted(source_L, source_length, side="right"))
        self.noise_L, self.spans_L, self.source_L = noise_L[:fits], spans_L[:fits], source_L[:fits]
        self.target_L = self.noise_L + self.spans_L + (self.spans_L > 0)


class SpanCorruption(Objective):
    """Rows of S tokens with stretches left out, and of T tokens of what was left out."""

    draws: ClassVar[bool] = True

    def __init__(
        self, config: SpanCorruptionConfig, tokenizer: "Tokenizer", shape: RowShape, source_length: int
    ) -> None:
        self._end_id, self._shape, self._source_length = tokenizer.end_id, shape, source_length
        self._sizes = Sizes(config, source_length)
        self._sentinel_ids = np.array([tokenizer.special_id(names) for names in config.special_tokens()])
        self._longest = int(np.searchsorted(self._sizes.target_L, shape.length, side="right")) - 1
        self.needed = self._longest

    def rows(self, shards: "Shards", stream: "TokenStream") -> Rows:
        if stream.marked:
            raise DataError(
                f"data.objective: span_corruption leaves out stretches of plain text, and '{stream.domain}' holds "
                "documents in segments; name sources of text."
            )
        if not self._shape.packed:
            return Contiguous(stream.tokens, self._longest, full=stream.side == "training", ahead=0)
        return Corrupted(shards.documents(stream, "lengths"), self._sizes, self._source_length, self._shape.length)

    def batch(self, stretches: Sequence[Stretch], key_B: Words | None) -> "Batch":
        from sublayer.data.packing import two_sided

        assert key_B is not None
        rows = [
            [self._corrupted(piece_N, mixed(key_B[row : row + 1], number)) for number, piece_N in enumerate(pieces)]
            for row, pieces in enumerate(map(self._pieces, stretches))
        ]
        return two_sided(rows, self._source_length, self._shape.length, self._end_id, self._shape.packed)

    def _pieces(self, stretch: Stretch) -> list[NDArray[np.int64]]:
        tokens_N = stretch.tokens.astype(np.int64)
        if not self._shape.packed:
            return [tokens_N]
        begins = np.flatnonzero(tokens_N[1:] == self._end_id) + 1
        return np.split(tokens_N, begins)

    def _corrupted(self, tokens_N: NDArray[np.int64], key: Words) -> "Piece":
        from sublayer.data.packing import Piece

        n_noise, n_spans = int(self._sizes.noise_L[len(tokens_N)]), int(self._sizes.spans_L[len(tokens_N)])
        if not n_spans:
            return Piece(tokens_N, tokens_N[:0], tokens_N[:0])
        noise = _divided(n_noise, n_spans, mixed(key, NOISE))
        rest = _divided(len(tokens_N) - n_noise, n_spans, mixed(key, REST))
        # What stays and what is left out take turns, and what stays begins.
        is_noise_N = np.repeat(np.arange(2 * n_spans) % 2 > 0, np.stack((rest, noise), axis=1).ravel())
        sentinels = self._sentinel_ids[:n_spans]
        source_S = np.insert(tokens_N[~is_noise_N], np.cumsum(rest), sentinels)
        written_T = np.insert(tokens_N[is_noise_N], np.cumsum(noise) - noise, sentinels)
        end = [self._end_id]
        return Piece(source_S, np.concatenate((end, written_T)), np.concatenate((written_T, end)))


def _divided(number: int, parts: int, key: Words) -> NDArray[np.int64]:
    """A number as a sum of so many numbers of at least 1, every such sum being as likely."""
    draw_N = mixed(key, np.arange(number - 1, dtype=np.uint64))
    cuts = np.sort(np.argsort(draw_N, kind="stable")[: parts - 1]) + 1
    return np.diff(cuts, prepend=0, append=number)


class Corrupted(Rows):
    """A row reads as much of the stream as fits on both sides once it is corrupted, each document by itself.

    Args:
        length_D: tokens of each document.
        sizes: what becomes of a piece.
        source_length: S.
        length: T.
    """

    def __init__(self, length_D: NDArray[np.uint32], sizes: Sizes, source_length: int, length: int) -> None:
        # By the places that are left on a side, the longest piece that fits there.
        fits_source, fits_target = (
            (np.searchsorted(side_L, np.arange(most + 1), side="right") - 1).tolist()
            for side_L, most in ((sizes.source_L, source_length), (sizes.target_L, length))
        )
        source_L, target_L = sizes.source_L.tolist(), sizes.target_L.tolist()
        ends, filled = [0], []
        at, source_left, target_left = 0, source_length, length
        for size in length_D.tolist():
            left = size
            while left:
                fits = min(fits_source[source_left], fits_target[target_left])
                take = min(left, fits)
                if take == left or take >= SHORTEST or at == ends[-1]:
                    source_left -= source_L[take]
                    target_left -= target_L[take]
                    at += take
                    left -= take
                if left:  # the row is full
                    ends.append(at)
                    filled.append((source_length - source_left, length - target_left))
                    source_left, target_left = source_length, length
        if at > ends[-1]:
            ends.append(at)
            filled.append((source_length - source_left, length - target_left))
        end_R, filled_R2 = np.array(ends, dtype=np.int64), np.array(filled, dtype=np.int64).reshape(-1, 2)
        asked_R = filled_R2[:, 1] > 0
        self._begin_R, self._end_R = end_R[:-1][asked_R], end_R[1:][asked_R]
        self.filled = int(filled_R2[asked_R].sum())
        self.left_out = int(np.count_nonzero(~asked_R))

    def __len__(self) -> int:
        return len(self._begin_R)

    def stretch(self, row: int) -> tuple[int, int]:
        return int(self._begin_R[row]), int(self._end_R[row])
