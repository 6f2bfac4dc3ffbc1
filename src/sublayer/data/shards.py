"""Tokens on disk: one raw little-endian file a stream, and a manifest that says what must be there.

Shape suffixes: N tokens of a stream.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sublayer.data.split import Side
from sublayer.data.tokenizer import Tokenizer
from sublayer.errors import DataError

FORMAT = 1
"""Raised whenever the same content would be written otherwise; part of the content key."""

MANIFEST = "manifest.json"

PIECE = 1 << 16
"""Tokens turned back to text at once."""

Tokens = NDArray[np.uint16] | NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class TokenStream:
    """The tokens of one source, domain and side.

    Attributes:
        source: the source's number in the config's `sources` (or `validation`, where that names its own).
        domain: the domain of all its documents.
        side: what it is for.
        documents: how many documents begin in it.
        tokens: N.
        bytes: how many bytes of text the tokens stand for.
        file: the file's name.
    """

    source: int
    domain: str
    side: Side
    documents: int
    tokens: int
    bytes: int
    file: str


class StreamWriter:
    """Appends documents to a stream's file.

    Args:
        directory: where the file goes.
        file: its name.
        tokenizer: whose ids these are.
    """

    def __init__(self, directory: Path, file: str, tokenizer: Tokenizer) -> None:
        self._path = directory / file
        self._tokenizer = tokenizer
        self._dtype = _dtype(tokenizer.vocab_size)
        self._documents = self._tokens = self._bytes = 0
        self._path.touch()

    def append(self, pieces: list[tuple[bool, list[int]]]) -> None:
        """Write pieces of documents in order.

        Args:
            pieces: whether a document begins with the piece, and its ids without the token that begins a document.
        """
        with self._path.open("ab") as file:
            for begins, ids in pieces:
                head = [self._tokenizer.end_id] if begins else []
                ids_N = np.array(head + ids, dtype=self._dtype)
                file.write(ids_N.tobytes())  # `tofile` would not say why it failed
                self._documents += begins
                self._tokens += len(ids_N)
                self._bytes += int(self._tokenizer.bytes_per_token[ids_N].sum())

    def finish(self, source: int, domain: str, side: Side) -> TokenStream:
        """What was written."""
        return TokenStream(source, domain, side, self._documents, self._tokens, self._bytes, self._path.name)


def write_manifest(directory: Path, streams: list[TokenStream], tokenizer: Tokenizer) -> None:
    """Write the tokenizer, and the manifest last."""
    tokenizer.save(directory)
    manifest = {
        "format": FORMAT,
        "end": tokenizer.end,
        "vocab_size": tokenizer.vocab_size,
        "streams": [asdict(stream) for stream in streams],
    }
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


class Shards:
    """An opened directory of shards.

    Args:
        directory: as `write_manifest` left it.

    Attributes:
        tokenizer: whose ids the tokens are.
        streams: what there is.

    Raises:
        DataError: when something is missing, damaged or cut short.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
            self.streams = [TokenStream(**stream) for stream in manifest["streams"]]
            end, vocab_size = manifest["end"], manifest["vocab_size"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"the tokens in {directory} have no readable {MANIFEST} ({error}); delete the folder."
            ) from None
        self.tokenizer = Tokenizer.load(directory, end)
        if self.tokenizer.vocab_size != vocab_size:
            raise DataError(
                f"the tokenizer in {directory} is not the one the tokens were made with; delete the folder."
            )
        self._dtype = _dtype(vocab_size)
        for stream in self.streams:
            path = directory / stream.file
            size, expected = path.stat().st_size if path.is_file() else 0, stream.tokens * self._dtype.itemsize
            if size != expected:
                raise DataError(
                    f"{path} holds {size} bytes where {expected} were written; delete the folder {directory}."
                )

    def tokens(self, stream: TokenStream) -> Tokens:
        """The tokens of a stream, [N], mapped from the file and read as they are touched."""
        mapped_N = np.memmap(self.directory / stream.file, dtype=self._dtype, mode="r")
        return mapped_N.view(np.ndarray)  # slices of a memmap carry its bookkeeping along, which costs time

    def text(self, stream: TokenStream, last_bytes: int | None = None) -> Iterator[bytes]:
        """The text of a stream in pieces, without the tokens between documents.

        Args:
            stream: one of `streams`.
            last_bytes: begin at the last piece that leaves this many bytes; nothing where that is none.
        """
        tokens_N = self.tokens(stream)
        begin = 0
        if last_bytes is not None:
            begin, left = stream.tokens, last_bytes
            while begin > 0 and left > 0:
                begin, end = max(0, begin - PIECE), begin
                left -= int(self.tokenizer.bytes_per_token[tokens_N[begin:end]].sum())
        for first in range(begin, stream.tokens, PIECE):
            yield self.tokenizer.decode_bytes(tokens_N[first : first + PIECE].tolist())


def _dtype(vocab_size: int) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")
