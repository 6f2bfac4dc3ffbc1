"""A source of your own text files: a file, a folder or a glob."""

import codecs
import glob
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from sublayer.data.document import Document
from sublayer.data.skipped import Skipped
from sublayer.data.sources.base import SOURCES, SourceConfig
from sublayer.errors import DataError

PIECE = 8 << 20
"""Bytes of a file read at once; a longer file is yielded in pieces of this size."""


@SOURCES.register
class TextConfig(SourceConfig):
    """Text files, one document each.

    In a folder or a glob, hidden files, binary files (a null byte near the start) and empty files are passed by.
    """

    kind: Literal["text"] = "text"
    path: str = Field(min_length=1)
    """A file, a folder (read with everything below it) or a glob such as `notes/**/*.md`."""
    domain: str | None = None
    """What to call this text in reports; left out, the file's stem or the folder's name."""
    encoding: str = "utf-8"
    """How the files are encoded; a byte-order mark is removed."""

    @field_validator("domain")
    @classmethod
    def _domain_is_a_name(cls, domain: str | None) -> str | None:
        if domain is not None and (not domain.strip() or "/" in domain or not domain.isprintable()):
            raise ValueError("must be a short name without '/', such as 'notes'")
        return domain

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, encoding: str) -> str:
        try:
            text = b"a".decode(encoding, errors="ignore")
        except LookupError:
            text = None
        if not isinstance(text, str):
            raise ValueError(f"'{encoding}' is not a text encoding that Python knows; use utf-8 or another one's name")
        return encoding

    def documents(self, skipped: Skipped) -> Iterator[Document]:
        files, domain = self._files(), self._domain()
        empty = True
        for name, path in files:
            for number, text in enumerate(self._pieces(path)):
                empty = False
                yield Document(key=name, domain=domain, text=text, held_out_key=name, continues=number > 0)
        if empty:
            what = f"{files[0][1]} is" if len(files) == 1 else f"all {len(files)} text files of {self.path} are"
            raise DataError(f"{what} empty; name a file or folder with text in data.sources.")

    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self._domain()}\0{self.encoding}\0".encode())
        for name, path in self._files():
            with _opened(path) as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{name}\0{path.stat().st_size}\0{content}\0".encode())
        return digest.hexdigest()

    def _domain(self) -> str:
        if self.domain is not None:
            return self.domain
        path = _given(self.path)
        if path.is_file():
            return path.stem
        folder = path if path.is_dir() else _glob_root(self.path)
        return folder.resolve().name or "text"

    def _files(self) -> list[tuple[str, Path]]:
        """The files to read with the names they go by, in the order of the names."""
        path = _given(self.path)
        if path.is_file():
            return [(path.name, path)]
        if path.is_dir():
            root, found = path, _below(path)
            nothing = f"the folder {path} holds no text files (hidden and binary files are passed by)"
        elif glob.has_magic(self.path):
            root = _glob_root(self.path)
            pattern = path.relative_to(root).as_posix()
            # pathlib's globs would find hidden files as well.
            matches = (root / match for match in glob.iglob(pattern, root_dir=root, recursive=True))  # noqa: PTH207
            found = [match for match in matches if match.is_file()]
            nothing = f"no text file matches {self.path} (hidden and binary files are passed by)"
        else:
            raise DataError(f"there is no file or folder {path}; name one that exists in data.sources, or a glob.")
        wide = codecs.lookup(self.encoding).name.startswith(("utf-16", "utf-32"))
        files = {file.relative_to(root).as_posix(): file for file in found if wide or not _is_binary(file)}
        if not files:
            raise DataError(f"{nothing}; name text files in data.sources.")
        return sorted(files.items())

    def _pieces(self, path: Path) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder(self.encoding)()
        end_of_block = 0
        with _opened(path) as file:
            while True:
                block = file.read(PIECE)
                begin = end_of_block - len(decoder.getstate()[0])  # what the decoder kept belongs to this piece
                end_of_block += len(block)
                try:
                    text = decoder.decode(block, final=not block)
                except UnicodeDecodeError as error:
                    at = begin + error.start
                    raise DataError(
                        f"{path} is not {self.encoding} text: byte {at} (line {_line(path, at)}) cannot be read "
                        f"({error.reason}); convert the file, or set the source's encoding."
                    ) from None
                if begin <= 0:
                    text = text.removeprefix("\ufeff")
                if text:
                    yield text
                if not block:
                    return


def _given(path: str) -> Path:
    return Path(path).expanduser()


def _glob_root(pattern: str) -> Path:
    """The folder in front of a glob's first part with a wildcard."""
    fixed: list[str] = []
    for part in _given(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed)


def _below(folder: Path) -> list[Path]:
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, name) for name in files if not name.startswith(".")]
    return [path for path in found if path.is_file()]


def _is_binary(path: Path) -> bool:
    with _opened(path) as file:
        return b"\0" in file.read(8192)


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{path} could not be read ({reason}); name another file or mend this one.") from None


def _line(path: Path, offset: int) -> int:
    with _opened(path) as file:
        return 1 + sum(file.read(min(PIECE, offset - at)).count(b"\n") for at in range(0, offset, PIECE))
