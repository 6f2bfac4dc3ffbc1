"""A tokenizer that exists already."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from sublayer.data.tokenizer.alphabet import END
from sublayer.data.tokenizer.base import TOKENIZERS, TokenizerConfig
from sublayer.data.tokenizer.runtime import BESIDE, Tokenizer, chat_template_in, end_in, read_settings
from sublayer.errors import DataError


@TOKENIZERS.register
class FileConfig(TokenizerConfig):
    """An existing byte-level `tokenizer.json`, as Hugging Face models carry.

    One with a normaliser (such as NFC) reads text as that leaves it, so only such text comes back as it was.
    """

    given: ClassVar[bool] = True

    kind: Literal["file"] = "file"
    path: str = Field(min_length=1)
    """The file, or a directory that holds it."""
    end: str | None = None
    """Its token that begins every document; left out, the `eos_token` that `tokenizer_config.json` beside it names,
    or else `<|endoftext|>`."""

    def expected_size(self) -> int:
        return Tokenizer.load(self._path(), self.end).vocab_size

    def build(self, texts: Callable[[], Iterator[str]]) -> Tokenizer:
        return Tokenizer.load(self._path(), self.end)

    def fingerprint(self) -> str:
        file = self._file()
        if not file.is_file():
            raise DataError(f"data.tokenizer.path: there is no tokenizer at {file}; name a tokenizer.json that exists.")
        beside = [file.with_name(name) for name in BESIDE]
        contents = [part.read_bytes() for part in (file, *beside) if part.is_file()]
        return " ".join(hashlib.sha256(content).hexdigest() for content in contents)

    def end_token(self) -> str:
        return self.end or end_in(read_settings(self._file())) or END

    def chat_template(self) -> str | None:
        return chat_template_in(read_settings(self._file()))

    def _path(self) -> Path:
        return Path(self.path).expanduser()

    def _file(self) -> Path:
        path = self._path()
        return path / "tokenizer.json" if path.is_dir() else path
