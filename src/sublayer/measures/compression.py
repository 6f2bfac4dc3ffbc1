"""What `lzma` makes of the held-out text: a compressor is a language model too, and it reads its whole window.

Bits per byte alone: 8 · |z(held-out)| / |held-out|.  With the training text in the window:
8 · (|z(training + held-out)| − |z(training)|) / |held-out|, the conditional compression of Cilibrasi & Vitányi 2005,
"Clustering by compression", §2.  A model's bits per byte is the same unit (Delétang et al. 2024, "Language modeling is
compression"), so the figures compare.
"""

import lzma
import time
from collections.abc import Iterator
from dataclasses import dataclass

from sublayer.data.corpus import Corpus

PRESET = 6
"""The strongest preset costs 40 % more time and gains 0.5 % on the embedded corpus."""

SMALLEST_WINDOW = 4096
"""Bytes; the format has no smaller one."""

MOST_TRAINING = 20_000_000
"""Bytes of training text in the windows of all domains together."""

MOST_HELD_OUT = 4_000_000
"""Bytes of held-out text compressed, of all domains together."""


@dataclass(frozen=True, slots=True)
class Compression:
    """Figures for one domain.

    Attributes:
        alone: bits per byte of the held-out text by itself.
        primed: bits per byte of the held-out text after the training text.
        held_out_bytes: of held-out text that were compressed; the first ones where it has more.
        training_bytes: of training text in the window; the last ones where it has more.
        seconds: what it took.
    """

    alone: float
    primed: float
    held_out_bytes: int
    training_bytes: int
    seconds: float


def compression_scores(corpus: Corpus) -> dict[str, Compression]:
    """`lzma` on the validation side of `corpus`, by domain.

    About 0.8 s for each megabyte of text on one core.  The compressor lets go of Python's lock, so this can run in a
    thread beside training.  Each domain is primed with its own training text; one that has none, with all there is.
    """
    most_training, most_held_out = (most // len(corpus.domains) for most in (MOST_TRAINING, MOST_HELD_OUT))
    table = corpus.describe()
    scores = {}
    for domain in corpus.domains:
        started = time.perf_counter()
        primers = [domain] if "training" in table[domain] else [name for name in table if "training" in table[name]]
        training = b"".join(
            piece for name in primers for piece in corpus.training_text(name, most_training, scored=True)
        )
        training = training[-most_training:]
        held_out = _first(corpus.validation_text(domain, scored=True), most_held_out)
        alone = compressed_size(held_out)
        primed = compressed_size(training + held_out) - compressed_size(training)
        scores[domain] = Compression(
            alone=8 * alone / len(held_out),
            primed=8 * primed / len(held_out),
            held_out_bytes=len(held_out),
            training_bytes=len(training),
            seconds=time.perf_counter() - started,
        )
    return scores


def compressed_size(text: bytes) -> int:
    """Bytes of `text` as a raw LZMA2 stream whose window holds all of it."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": PRESET, "dict_size": max(len(text), SMALLEST_WINDOW)}]
    return len(lzma.compress(text, lzma.FORMAT_RAW, filters=filters))


def _first(pieces: Iterator[bytes], size: int) -> bytes:
    text = bytearray()
    for piece in pieces:
        text += piece
        if len(text) >= size:
            break
    return bytes(text[:size])
