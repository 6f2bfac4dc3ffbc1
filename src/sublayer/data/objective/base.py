"""The base of every objective, and what an objective is given and gives.

Shape suffixes: B batch (rows), N tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sublayer.data.permutation import Words
from sublayer.data.rows import Rows
from sublayer.errors import DataError
from sublayer.registry import PartConfig, Registry

if TYPE_CHECKING:
    from sublayer.data.packing import Batch  # it waits for torch
    from sublayer.data.shards import Shards, Tokens, TokenStream
    from sublayer.data.sources import SourceConfig
    from sublayer.data.split import Side
    from sublayer.data.tokenizer import Tokenizer

Stack = Literal["decoder", "encoder", "encoder_decoder"]

OBJECTIVES: "Registry[ObjectiveConfig]" = Registry("objective")


@dataclass(frozen=True, slots=True)
class RowShape:
    """How large the rows of an objective are.

    Attributes:
        length: places a row for the decoder, or for the only stack that there is.
        source_length: places a row for the encoder of an encoder-decoder; None for others.
        packed: several documents stand in a row and do not see one another.
        one_target: a row has a single target, its class.
    """

    length: int
    source_length: int | None = None
    packed: bool = False
    one_target: bool = False

    @property
    def places(self) -> int:
        """Places a row, of both sides."""
        return self.length + (self.source_length or 0)


class Stretch(NamedTuple):
    """The tokens of a stream that a row reads.

    Attributes:
        tokens: [N].
        marks: [N], SCORED and BEGINS; None in a stream of plain text.
        label: the number of the class, where the objective tells classes.
        segment: which of two texts the tokens begin in, 0 or 1.
    """

    tokens: "Tokens"
    marks: NDArray[np.uint8] | None
    label: int
    segment: int = 0


class Objective(ABC):
    """An objective at work: streams to rows, rows to batches.

    Attributes:
        draws: batches depend on random draws, made from a key for each row.
        needed: tokens of plain text that fill a row.
    """

    draws: ClassVar[bool] = False
    needed: int

    @abstractmethod
    def rows(self, shards: "Shards", stream: "TokenStream") -> Rows:
        """Which tokens of a stream each row reads."""

    @abstractmethod
    def batch(self, stretches: Sequence[Stretch], key_B: Words | None) -> "Batch":
        """Rows for the model.

        Args:
            stretches: what each row reads, as `rows` has it.
            key_B: of each row, where the objective draws: equal keys give equal draws.
        """


class ObjectiveConfig(PartConfig):
    """An objective, named; `build` puts it to work."""

    registry: ClassVar[Registry[Any]] = OBJECTIVES

    stacks: ClassVar[tuple[Stack, ...]]
    """The stacks of models that it trains."""
    classifies: ClassVar[bool] = False
    """The model tells a class for each row, and no tokens."""
    tells_bits: ClassVar[bool] = False
    """Its loss is on text in whole, so that bits a byte of it mean something."""
    tells_accuracy: ClassVar[bool] = False
    """How often the likeliest answer is right is told beside the loss."""

    ahead: ClassVar[int] = 1
    """How far behind its input a target stands: 1, or 0 where a target stands at the place of its input."""
    null: ClassVar[Literal["bigram", "marginal"]] = "marginal"
    """What the loss is set beside: a bigram model and lzma, or how often each target comes."""

    @classmethod
    def abilities(cls) -> tuple[str, ...]:
        return tuple(stack.replace("_", "-") + "s" for stack in cls.stacks)

    def unfit(self, stack: Stack) -> str:
        """Why it cannot train a stack, in a few words; empty where it can."""
        return "" if stack in self.stacks else "is not defined for it"

    def check(
        self, sequence_length: int, sources: Sequence["SourceConfig"], validation: Sequence["SourceConfig"]
    ) -> None:
        """Refuse what does not go together.

        Args:
            sequence_length: T.
            sources: to train on.
            validation: to validate on, where they are named.

        Raises:
            ValueError: with a sentence's worth of words, which name the key.
        """
        for source in (*sources, *validation):
            if source.labelled and not self.classifies:
                raise ValueError(
                    f"{self.kind_name()} has no use for the labels of a source of kind {source.kind_name()}; take "
                    "classify, or read the text with a source that gives none, such as one of kind jsonl"
                )

    def source(self, source: "SourceConfig") -> "SourceConfig":
        """A source as it is read for the objective."""
        return source

    def special_tokens(self) -> tuple[tuple[str, ...], ...]:
        """The special tokens that the tokenizer must have, each with all the names it goes by, the first being the one
        that a learnt tokenizer is given."""
        return ()

    def check_tokenizer(self, tokenizer: "Tokenizer") -> None:
        """Refuse a tokenizer without the special tokens that are needed.

        Raises:
            DataError: when one is missing.
        """
        missing = [names for names in self.special_tokens() if not tokenizer.has_any(names)]
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise DataError(
                f"data.tokenizer: it has no token {' or '.join(missing[0])}{more}, which data.objective: "
                f"{self.kind_name()} needs; name one that has (a model of training.init_from must come with it), or, "
                "for a model that starts anew, have one learnt (bpe, bytes)."
            )

    def cut_off(self, sequence_length: int, side: "Side") -> str:
        """What is told of documents on a side that are longer than a row, behind their number."""
        return (
            f"documents for {side} are longer than a row and cut off after {sequence_length} tokens; raise "
            "data.sequence_length to read them whole."
        )

    def named_classes(self) -> tuple[str, ...]:
        """The names of the classes, as far as they are known before data is read."""
        return ()

    def classes_in(self, shards: "Shards") -> tuple[str, ...]:
        """The names of the classes, by number, where the objective tells classes.

        Raises:
            DataError: when the data has other ones than it should, or fewer than two.
        """
        return ()

    @abstractmethod
    def shape(self, sequence_length: int, isolate_documents: bool) -> RowShape:
        """How large its rows are."""

    @abstractmethod
    def build(self, tokenizer: "Tokenizer", sequence_length: int, isolate_documents: bool) -> Objective:
        """Put it to work.

        Args:
            tokenizer: with the special tokens that are needed.
            sequence_length: T.
            isolate_documents: documents in the same row do not see one another.
        """
