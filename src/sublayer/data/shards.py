"""Tokens on disk: raw little-endian files of each stream, and a manifest that says what must be there.

`.tokens` holds the tokens.  In a stream of plain text, a document begins where the end token stands.  A stream of
documents in segments has `.marks`, a byte for each token that says whether it is a target of the loss and whether a
document begins with it; the end token may then stand inside a document.  `.lengths`, `.sizes`, `.hashes`, `.scored` and
`.keys` say of each document what is told by `sublayer data`, and `.labels`, where there are some, of which class it is.

Shape suffixes: N tokens of a stream, D documents.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sublayer.data.skipped import Skipped
from sublayer.data.split import Side
from sublayer.data.tokenizer import Tokenizer
from sublayer.data.tokenizing import COLUMNS, SCORED, Columns, hash_on, token_dtype
from sublayer.errors import DataError

FORMAT = 2
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
        marked: each token has a mark beside it.
        scored: how many tokens are targets of the loss.
        scored_bytes: how many bytes of text those stand for.
        file: the name of the file of tokens; those beside it have other suffixes.
        labelled: each document has a label beside it.
    """

    source: int
    domain: str
    side: Side
    documents: int
    tokens: int
    bytes: int
    marked: bool
    scored: int
    scored_bytes: int
    file: str
    labelled: bool = False

    def sizes(self, token_size: int) -> dict[str, int]:
        """How large each of its files is, by suffix."""
        of_tokens, of_documents = (
            ["marks"] * self.marked,
            ["lengths", "sizes", "hashes"] + ["scored"] * self.marked + ["labels"] * self.labelled,
        )
        return (
            {"tokens": self.tokens * token_size}
            | {name: self.tokens * COLUMNS[name].itemsize for name in of_tokens}
            | {name: self.documents * COLUMNS[name].itemsize for name in of_documents}
        )


class StreamWriter:
    """Appends what chunks give to a stream's files.

    Args:
        directory: where the files go; there are none of them yet.
        file: the name of the one of tokens.
        tokenizer: whose ids these are.
        numbers: by a label's place in the chunks' own list, its place among the labels of all streams.
    """

    def __init__(self, directory: Path, file: str, tokenizer: Tokenizer, numbers: Sequence[int] = ()) -> None:
        self._numbers = np.array(numbers, dtype=COLUMNS["labels"])
        self._path = directory / file
        self._bytes_per_token = tokenizer.bytes_per_token
        self._documents = self._tokens = self._bytes = self._scored = self._scored_bytes = 0
        self._marked = self._labelled = False
        self._last: dict[str, NDArray[Any]] = {}

    def append(self, columns: Columns) -> None:
        """Write what a chunk gave, after those before it."""
        columns = dict(columns)
        continues = bool(columns.pop("continues")[0])
        tokens_N, marks_N = columns.pop("tokens"), columns.pop("marks", None)
        self._write("tokens", tokens_N)
        self._tokens += len(tokens_N)
        self._bytes += int(self._bytes_per_token[tokens_N].sum())
        if marks_N is not None:
            self._marked = True
            self._write("marks", marks_N)
            scored_N = tokens_N[marks_N & SCORED > 0]
            self._scored += len(scored_N)
            self._scored_bytes += int(self._bytes_per_token[scored_N].sum())
        if "labels" in columns:
            self._labelled = True
            columns["labels"] = self._numbers[columns["labels"]]
        keys = columns.pop("keys").tobytes().split(b"\n")[:-1]
        columns["keys"] = np.array(keys, dtype=object)
        # The last document is kept back, as the next chunk may hold more of it.
        if continues:
            last = {name: column[-1] for name, column in self._last.items()}
            for name in ("lengths", "scored", "sizes"):
                if name in columns:
                    columns[name][0] += last[name]
            columns["hashes"][0] = hash_on(int(last["hashes"]), int(columns["hashes"][0]))
        else:
            self._write_last()
        for name, column in columns.items():
            self._write(name, column[:-1])
        self._last = {name: column[-1:] for name, column in columns.items()}
        self._documents += len(keys) - continues

    def finish(self, source: int, domain: str, side: Side) -> TokenStream:
        """What was written."""
        self._write_last()
        return TokenStream(
            source,
            domain,
            side,
            self._documents,
            self._tokens,
            self._bytes,
            self._marked,
            self._scored if self._marked else self._tokens - 1,  # the first of a stream has nothing before it
            self._scored_bytes if self._marked else self._bytes,
            self._path.name,
            self._labelled,
        )

    def _write_last(self) -> None:
        for name, column in self._last.items():
            self._write(name, column)
        self._last = {}

    def _write(self, name: str, column: NDArray[Any]) -> None:
        with self._path.with_suffix(f".{name}").open("ab") as file:
            # `tofile` would not say why it failed.
            file.write(b"".join(key + b"\n" for key in column) if name == "keys" else column.tobytes())


def write_manifest(
    directory: Path,
    streams: list[TokenStream],
    tokenizer: Tokenizer,
    skipped: Sequence[Skipped],
    labels: Sequence[str] = (),
) -> None:
    """Write the tokenizer, and the manifest last.

    Args:
        directory: of the streams.
        streams: what there is.
        tokenizer: whose ids the tokens are.
        skipped: what each source passed by, and then each validation source.
        labels: the names that the numbers in the files of labels stand for.
    """
    tokenizer.save(directory)
    manifest = {
        "format": FORMAT,
        "end": tokenizer.end,
        "vocab_size": tokenizer.vocab_size,
        "streams": [asdict(stream) for stream in streams],
        "skipped": [asdict(one) for one in skipped],
        "labels": list(labels),
    }
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


class Shards:
    """An opened directory of shards.

    Args:
        directory: as `write_manifest` left it.

    Attributes:
        tokenizer: whose ids the tokens are.
        streams: what there is.
        skipped: what each source passed by, and then each validation source.
        labels: the names that the numbers in the files of labels stand for.

    Raises:
        DataError: when something is missing, damaged or cut short.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
            self.streams = [TokenStream(**stream) for stream in manifest["streams"]]
            self.skipped = [Skipped(**skipped) for skipped in manifest["skipped"]]
            self.labels: list[str] = manifest.get("labels", [])
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
        self._dtype = token_dtype(vocab_size)
        for stream in self.streams:
            for suffix, expected in stream.sizes(self._dtype.itemsize).items():
                path = self._path(stream, suffix)
                size = path.stat().st_size if path.is_file() else 0
                if size != expected:
                    raise DataError(
                        f"{path} holds {size} bytes where {expected} were written; delete the folder {directory}."
                    )

    def fingerprint(self) -> str:
        """A text that is equal for equal tokens, however the config says it and wherever the sources lie.

        Of the tokenizer, and of each stream's documents: hashes of their texts, their tokens, how many are scored, and
        their labels.
        """
        digest = hashlib.sha256(f"{self.tokenizer.fingerprint()} {self.tokenizer.chat_template}".encode())
        for stream in self.streams:
            digest.update(f"\0{stream.source} {stream.domain} {stream.side} {stream.documents}\0".encode())
            for column in ["hashes", "lengths"] + ["scored"] * stream.marked:
                digest.update(self.documents(stream, column).data if stream.documents else b"")
            if stream.labelled:
                names = [self.labels[number] for number in self.documents(stream, "labels").tolist()]
                digest.update("\0".join(names).encode())
        return digest.hexdigest()

    def tokens(self, stream: TokenStream) -> Tokens:
        """The tokens of a stream, [N], mapped from the file and read as they are touched."""
        return self._mapped(stream, "tokens", self._dtype)

    def marks(self, stream: TokenStream) -> NDArray[np.uint8] | None:
        """The marks of a stream's tokens, [N], mapped from the file: SCORED, BEGINS; None where it has none."""
        return self._mapped(stream, "marks", COLUMNS["marks"]) if stream.marked else None

    def documents(self, stream: TokenStream, column: str) -> NDArray[Any]:
        """What is known of a stream's documents, [D], mapped from the file.

        Args:
            stream: one of `streams`.
            column: `lengths` (tokens, with the one that begins it), `sizes` (bytes of text), `hashes` (of the text),
                where the stream has marks `scored` (tokens that are targets), or where it has labels `labels` (their
                places in `labels`).
        """
        return self._mapped(stream, column, COLUMNS[column])

    def keys(self, stream: TokenStream, documents: Iterable[int]) -> dict[int, str]:
        """The names of some of a stream's documents, by number; the file of names is read up to the last of them."""
        wanted = sorted(set(documents), reverse=True)
        found: dict[int, str] = {}
        with self._path(stream, "keys").open("rb") as file:
            for number, line in enumerate(file):
                if not wanted:
                    break
                if number == wanted[-1]:
                    found[wanted.pop()] = line.decode(errors="replace").rstrip("\n")
        return found

    def _path(self, stream: TokenStream, suffix: str) -> Path:
        return (self.directory / stream.file).with_suffix(f".{suffix}")

    def _mapped(self, stream: TokenStream, suffix: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        mapped = np.memmap(self._path(stream, suffix), dtype=dtype, mode="r")
        return mapped.view(np.ndarray)  # slices of a memmap carry its bookkeeping along, which costs time

    def text(self, stream: TokenStream, last_bytes: int | None = None, scored: bool = False) -> Iterator[bytes]:
        """The text of a stream in pieces, without the tokens between documents.

        Args:
            stream: one of `streams`.
            last_bytes: begin at the last piece that leaves this many bytes; nothing where that is none.
            scored: only the text of tokens that are targets of the loss.
        """
        tokens_N, marks_N = self.tokens(stream), self.marks(stream) if scored else None

        def piece(begin: int, end: int) -> Tokens:
            part_N = tokens_N[begin:end]
            return part_N if marks_N is None else part_N[marks_N[begin:end] & SCORED > 0]

        begin = 0
        if last_bytes is not None:
            begin, left = stream.tokens, last_bytes
            while begin > 0 and left > 0:
                begin, end = max(0, begin - PIECE), begin
                left -= int(self.tokenizer.bytes_per_token[piece(begin, end)].sum())
        for first in range(begin, stream.tokens, PIECE):
            yield self.tokenizer.decode_bytes(piece(first, min(first + PIECE, stream.tokens)).tolist())
