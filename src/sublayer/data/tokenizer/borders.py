"""Where words begin among tokens, whatever parts of characters the tokens are.

Shape suffixes: B batch (rows), T length, V vocabulary, N bytes.
"""

import string
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

UNSPACED = (
    (0x0E00, 0x109F),  # Thai, Lao, Tibetan, Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19FF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x1B00, 0x1B7F),  # Balinese
    (0x2E80, 0xA4CF),  # Chinese, kana, Yi
    (0xA980, 0xA9FF),  # Javanese
    (0xAA60, 0xAADF),  # Tai Viet, more of Burmese
    (0xF900, 0xFAFF),
    (0xFE30, 0xFE4F),
    (0xFF00, 0xFFEF),  # of the width of Chinese letters, and kana of half of it
    (0x1B000, 0x1B16F),
    (0x20000, 0x3FFFF),
)
"""The first and last characters of scripts that are written without spaces (mostly classes SA and ID of Unicode's
UAX #14); Korean has spaces."""

_EDGES = np.array([(first, last + 1) for first, last in UNSPACED]).ravel()
_IN_WORDS = np.isin(np.arange(256), list(f"{string.ascii_letters}{string.digits}_".encode())) | (np.arange(256) >= 128)


class WordBorders:
    """Tells which tokens begin a word.

    A word is a run of letters, digits, underscores, and characters beyond ASCII; a letter of a script that is written
    without spaces is a word by itself.  Anything else, such as a space or a special token, belongs to none.

    Args:
        text_V: the bytes of every id; none for special tokens.
    """

    def __init__(self, text_V: Sequence[bytes]) -> None:
        # What has no text reads as a null byte, which is in no word; one more of them stands between rows.
        texts = [text or b"\0" for text in (*text_V, b"")]
        self._size_V = np.array([len(text) for text in texts])
        self._first_V = np.cumsum(self._size_V) - self._size_V
        self._byte = np.frombuffer(b"".join(texts), dtype=np.uint8)

    def begins(self, token_BT: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which tokens go on with no word that the ones before them in the row are of, [B, T]."""
        n_rows, length = token_BT.shape
        between = np.full((n_rows, 1), len(self._size_V) - 1)
        token = np.concatenate((token_BT, between), axis=1).ravel()
        size = self._size_V[token]
        first = np.cumsum(size) - size
        byte_N = self._byte[np.arange(size.sum()) + np.repeat(self._first_V[token] - first, size)]
        begins_BT: NDArray[np.bool_] = self._begins(byte_N)[first].reshape(n_rows, length + 1)[:, :length]
        return begins_BT

    def _begins(self, byte_N: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which bytes go on with no word, [N]; the last is between rows."""
        in_word_N: NDArray[np.bool_] = _IN_WORDS[byte_N]
        begins_character_N: NDArray[np.bool_] = byte_N & 0xC0 != 0x80
        # Every byte of a character is what its first is.
        first_N = np.maximum.accumulate(np.where(begins_character_N, np.arange(len(byte_N)), 0))
        unspaced_N = self._unspaced(byte_N)[first_N]
        either_N = unspaced_N | np.roll(unspaced_N, 1)
        begins_N: NDArray[np.bool_] = ~(in_word_N & np.roll(in_word_N, 1)) | (begins_character_N & either_N)
        return begins_N

    def _unspaced(self, byte_N: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Where a character of a script without spaces begins, [N]; none does that a row does not hold whole."""
        begin = np.flatnonzero(byte_N >= 0xE0)
        is_long = byte_N[begin] >= 0xF0
        code = (byte_N[begin] & np.where(is_long, 0x07, 0x0F)).astype(np.int64)
        whole = np.ones(len(begin), dtype=np.bool_)
        for place in (1, 2, 3):
            following = byte_N[np.minimum(begin + place, len(byte_N) - 1)]
            is_part = is_long | (place < 3)
            whole &= ~is_part | (following & 0xC0 == 0x80)
            code = np.where(is_part, code << 6 | following & 0x3F, code)
        unspaced_N = np.zeros(len(byte_N), dtype=np.bool_)
        unspaced_N[begin] = whole & (np.searchsorted(_EDGES, code, side="right") % 2 == 1)
        return unspaced_N
