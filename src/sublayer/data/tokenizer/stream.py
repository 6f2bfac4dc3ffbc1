"""Text from tokens as they come."""

import codecs
from collections.abc import Sequence


class Stream:
    """Decodes one id at a time; the parts given out join to the text of all ids.

    Bytes of an unfinished character are kept back until it is whole, or until it cannot become one (U+FFFD).

    Args:
        token_bytes: the bytes of every id.
    """

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, index: int) -> str:
        """The text that id `index` completes; empty inside a character and for special tokens."""
        return self._decoder.decode(self._token_bytes[index])

    def copy(self) -> "Stream":
        """Another one, which goes on from the same place."""
        other = Stream(self._token_bytes)
        other._decoder.setstate(self._decoder.getstate())
        return other

    def finish(self) -> str:
        """What is left: U+FFFD when the ids end inside a character."""
        return self._decoder.decode(b"", final=True)
