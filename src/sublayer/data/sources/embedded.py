"""The default corpus: the text that every Python installation carries."""

import ast
import hashlib
import io
import os
import platform
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from sublayer.data.document import Document
from sublayer.data.skipped import Skipped
from sublayer.data.sources.base import SOURCES, SourceConfig
from sublayer.data.sources.docstrings import split_docstrings
from sublayer.errors import DataError

EXTRACTION = 1
"""Raised whenever the same standard library would give other documents."""

LEFT_OUT = frozenset(
    {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "lib2to3", "pydoc_data"}
)
"""Folders passed by: packages that are not Python's own, tests, and data written as code."""


@SOURCES.register
class EmbeddedConfig(SourceConfig):
    """The standard library's code and its English, found where Python is installed.

    Domain `code` is the library's source with docstrings removed; `prose` is its docstrings (one document a module) and
    the language help of `pydoc_data.topics` (one document a topic; some builds of Python lack them).  A module is held
    out in both domains or in neither.
    """

    kind: Literal["embedded"] = "embedded"
    domains: tuple[Literal["code", "prose"], ...] = Field(default=("code", "prose"), min_length=1)
    """Which of the two to take."""

    @field_validator("domains")
    @classmethod
    def _each_once(cls, domains: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(domains)) < len(domains):
            raise ValueError("name each domain once")
        return domains

    def documents(self, skipped: Skipped) -> Iterator[Document]:
        root = library()
        for path in _modules(root):
            name = path.relative_to(root).as_posix()
            try:
                code, prose = split_docstrings(_read(path))
            except (SyntaxError, ValueError):
                continue  # templates and broken examples that carry the suffix .py
            for domain, text in (("code", code), ("prose", prose)):
                if domain in self.domains and text.strip():
                    yield Document(key=f"{domain}/{name}", domain=domain, text=text, held_out_key=name)
        if "prose" in self.domains:
            for topic, text in sorted(_topics(root).items()):
                yield Document(key=f"topics/{topic}", domain="prose", text=text, held_out_key=topic)

    def of_one_domain(self) -> bool:
        return len(self.domains) == 1

    def fingerprint(self) -> str:
        root = library()
        digest = hashlib.sha256()
        for path in [*_modules(root), *_topics_file(root)]:
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
        # The parser decides what is a docstring, hence Python's version.
        return f"{EXTRACTION} {platform.python_version()} {','.join(sorted(self.domains))} {digest.hexdigest()}"


def library() -> Path:
    """The folder of the standard library.

    Raises:
        DataError: when this Python carries no source.
    """
    root = Path(sysconfig.get_path("stdlib"))
    if not next(iter(root.glob("*.py")), None):
        raise DataError(
            f"this Python carries no source of its standard library in {root}; "
            "name your own text instead, as in data.sources='[{kind: text, path: notes/}]'."
        )
    return root


def _modules(root: Path) -> list[Path]:
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in LEFT_OUT]  # site-packages can be larger than all the rest
        found += [Path(folder, name) for name in files if name.endswith(".py")]
    return sorted(path for path in found if path.is_file())


def _read(path: Path) -> str:
    """The text of a module as Python reads it: its declared encoding, every line end as "\\n"."""
    content = path.read_bytes()
    encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
    return io.TextIOWrapper(io.BytesIO(content), encoding=encoding).read()


def _topics_file(root: Path) -> list[Path]:
    path = root / "pydoc_data" / "topics.py"
    return [path] if path.is_file() else []


def _topics(root: Path) -> dict[str, str]:
    """`pydoc_data.topics.topics`, read from the file without running it; empty where it is missing."""
    for path in _topics_file(root):
        for statement in ast.parse(_read(path)).body:
            if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
                topics = ast.literal_eval(statement.value)
                return {str(key): str(text) for key, text in topics.items()}
    return {}
