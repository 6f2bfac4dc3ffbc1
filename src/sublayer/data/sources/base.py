"""The base of every source of text."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

from sublayer.config import Positive
from sublayer.data.document import Document
from sublayer.data.skipped import Skipped
from sublayer.data.tokenizer import TokenizerConfig
from sublayer.registry import PartConfig, Registry

SOURCES: "Registry[SourceConfig]" = Registry("source")


class SourceConfig(PartConfig):
    """A source of documents."""

    registry: ClassVar[Registry[Any]] = SOURCES

    labelled: ClassVar[bool] = False
    """Its documents have labels."""
    in_segments: ClassVar[bool] = False
    """Its documents are conversations or pairs, of which a part is learnt."""

    weight: Positive = 1.0
    """How much of training comes from this source, as a share: its weight over the sum of all weights."""

    @abstractmethod
    def documents(self, skipped: Skipped) -> Iterator[Document]:
        """Every document, always in the same order.

        Args:
            skipped: told of every document passed by, which happens only where the options ask for it.

        Raises:
            DataError: when there is nothing to read, or something cannot be read.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """A text that changes whenever `documents` would yield something else.

        Raises:
            DataError: when there is nothing to read.
        """

    def stamp(self) -> str:
        """A text that changes whenever a file of the source is written to: cheaper than `fingerprint`, and told before
        and after the source is read.

        Left as it is, the fingerprint; a source of files gives their names, sizes and times of change instead.
        """
        return self.fingerprint()

    def size(self) -> int | None:
        """About how many bytes of text `documents` will give, for the progress shown; None where nobody knows."""
        return None

    def with_tokenizer(self, tokenizer: TokenizerConfig) -> "SourceConfig":
        """This source as it is read for a tokenizer; only one that writes special tokens cares.

        Args:
            tokenizer: of the data that the source is a part of.
        """
        return self

    def apart(self) -> "SourceConfig":
        """This source of pairs of texts as it is read for an encoder and a decoder, with nothing between the two.

        Raises:
            ValueError: when it gives no pairs, or has options that would be ignored.
        """
        raise ValueError(
            f"seq2seq learns from pairs of texts, and a source of kind {self.kind_name()} gives none; take one of kind "
            "pairs"
        )

    def of_one_domain(self) -> bool:
        """Whether all its documents are of one domain, as far as that is known before it is read."""
        return False

    def chat_template(self) -> str | None:
        """The Jinja template that its conversations are written with, to be saved with the tokenizer.

        Raises:
            DataError: when the template cannot be read.
        """
        return None
