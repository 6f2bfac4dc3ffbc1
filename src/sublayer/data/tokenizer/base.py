"""The base of every way to come by a tokenizer."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from sublayer.data.tokenizer.alphabet import END
from sublayer.data.tokenizer.runtime import Tokenizer
from sublayer.registry import PartConfig, Registry

TOKENIZERS: "Registry[TokenizerConfig]" = Registry("tokenizer")


class TokenizerConfig(PartConfig):
    """A tokenizer, named; `build` makes it."""

    registry: ClassVar[Registry[Any]] = TOKENIZERS

    given: ClassVar[bool] = False
    """It exists already, so it has the special tokens that it has; others are given those that an objective needs, in
    addition to what `expected_size` says."""

    @abstractmethod
    def build(self, texts: Callable[[], Iterator[str]]) -> Tokenizer:
        """Make the tokenizer.

        Args:
            texts: gives the training side's text, in parts; called only by a tokenizer that learns.

        Raises:
            DataError: when the tokenizer cannot be read or learnt.
        """

    def fingerprint(self) -> str:
        """A text that changes whenever the same options would give another tokenizer for the same texts.

        Raises:
            DataError: when the tokenizer is read from a file that is not there.
        """
        return ""

    def expected_size(self) -> int | None:
        """How many tokens it will have at most, as far as that is known before it is made; None when it is not.

        Raises:
            DataError: when the tokenizer is read from a file that is damaged.
        """
        return None

    def end_token(self) -> str:
        """The name of the token that begins and ends documents.

        Raises:
            DataError: when the tokenizer is read from a file that is damaged.
        """
        return END

    def chat_template(self) -> str | None:
        """The Jinja template that the tokenizer carries for conversations, if it does.

        Raises:
            DataError: when the tokenizer is read from a file that is damaged.
        """
        return None
