"""A completion as it is written: from tokens to text, up to its end."""

from copy import copy
from typing import Literal

from sublayer.data import Tokenizer
from sublayer.generation.config import GenerationConfig
from sublayer.generation.stop import StopStrings

Reason = Literal["end", "stop", "length"]
"""Why a completion ends: the model ended the document, a stop string came, or no more tokens may."""


class Written:
    """What has been written so far.

    Args:
        tokenizer: the model's.
        n_left: tokens that may be written at most.
        config: before which texts it ends, and whether special tokens are written.
    """

    def __init__(self, tokenizer: Tokenizer, n_left: int, config: GenerationConfig) -> None:
        self._n_left = n_left
        self._end_id = tokenizer.end_id
        self._stream = tokenizer.stream(config.special_tokens)
        self._stop = StopStrings(config.stop)

    def copy(self) -> "Written":
        """Another one, which goes on from the same place."""
        other = copy(self)
        other._stream, other._stop = self._stream.copy(), self._stop.copy()
        return other

    def take(self, token: int) -> tuple[str, Reason | None]:
        """Go on by one token: the text that it sets free, and why it was the last one, or None."""
        self._n_left -= 1
        text = self._stop.push(self._stream.push(token))
        reason: Reason | None = None
        if token == self._end_id:
            reason = "end"
        elif self._n_left == 0:
            reason = "length"
        if reason is not None:
            text += self._stop.push(self._stream.finish())
        if self._stop.found:
            reason = "stop"
        elif reason is not None:
            text += self._stop.finish()
        return text, reason
