"""A source of your own text files: a file, a folder or a glob."""

import codecs
import hashlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import field_validator

from sublayer.data.document import Document
from sublayer.data.skipped import Skipped
from sublayer.data.sources.base import SOURCES
from sublayer.data.sources.damage import Damage, pass_by
from sublayer.data.sources.files import FilesConfig, blocks

PIECE = 8 << 20
"""Bytes of a file read at once; a longer file is yielded in pieces of this size."""


@SOURCES.register
class TextConfig(FilesConfig):
    """Text files, plain or packed (.gz, .zst), one document each.

    In a folder or a glob, hidden files, binary files (a null byte near the start) and empty files are passed by.
    """

    taken: ClassVar[tuple[str, str]] = ("text files", "hidden and binary files")

    kind: Literal["text"] = "text"
    encoding: str = "utf-8"
    """How the files are encoded; a byte-order mark is removed."""

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
        domain = self.domain_name()
        empty = True
        for name, path in self._files():
            try:
                for number, text in enumerate(self._pieces(path)):
                    empty = False
                    yield Document(key=name, domain=domain, text=text, held_out_key=name, continues=number > 0)
            except Damage as damage:
                pass_by(self.damaged, skipped, str(path), damage)
        if empty:
            raise self._nothing(skipped)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.encoding}\0{super().fingerprint()}".encode()).hexdigest()

    def _takes(self, path: Path) -> bool:
        wide = codecs.lookup(self.encoding).name.startswith(("utf-16", "utf-32"))
        try:
            return wide or b"\0" not in next(blocks(path, 8192), b"")
        except Damage:
            return True  # and it is said where it is read

    def _pieces(self, path: Path) -> Iterator[str]:
        """The text of a file in pieces.

        Raises:
            Damage: where the bytes are no text; what is in front of them was given.
        """
        decoder = codecs.getincrementaldecoder(self.encoding)()
        begin, line = 0, 1
        for block in chain(blocks(path, PIECE), [b""]):
            kept = len(decoder.getstate()[0])  # the begin of a character whose end is in this block
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                line += (error.object[: error.start]).count(b"\n")
                raise Damage(
                    f"not {self.encoding} text",
                    f"byte {begin - kept + error.start} in line {line} cannot be read: {error.reason}; "
                    "the source's encoding can be set",
                ) from None
            if begin == 0:
                text = text.removeprefix("\ufeff")
            begin += len(block)
            line += text.count("\n")
            if text:
                yield text
