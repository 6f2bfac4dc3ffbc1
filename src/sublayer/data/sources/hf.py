"""A source of Hugging Face `datasets`: by name from the Hub, or from a folder on this machine."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from sublayer.config import Flag
from sublayer.data.document import Document
from sublayer.data.skipped import Skipped
from sublayer.data.sources.base import SOURCES, SourceConfig
from sublayer.data.sources.damage import Damage, WhenDamaged, nothing_left, pass_by
from sublayer.data.sources.files import DomainName, content_of, given, times_of
from sublayer.data.sources.json_lines import digest, text_of
from sublayer.errors import DataError

SAVED = ("state.json", "dataset_dict.json")
"""What a folder holds that `save_to_disk` wrote."""


@SOURCES.register
class HfConfig(SourceConfig):
    """A Hugging Face dataset, one document a row (extra `hf`).

    Empty texts are passed by.  The text decides the held-out side, so no text is on both.
    """

    kind: Literal["hf"] = "hf"
    name: str = Field(min_length=1)
    """Its name on the Hub, or a folder: one that `save_to_disk` wrote, or one of files that `load_dataset` reads."""
    config: str | None = None
    """Which of its configurations, where it has several."""
    split: str = "train"
    """Which of its splits."""
    field: str = Field(default="text", min_length=1)
    """The column that holds the text; `meta.body` for a field of a structure."""
    revision: str | None = None
    """A commit, tag or branch on the Hub; left out, the newest.  Name a commit to read the same rows for ever."""
    streaming: Flag = True
    """Read rows as they arrive, instead of first keeping the whole in the library's own cache."""
    domain: DomainName | None = None
    """What to call this text in reports; left out, the name behind its last `/`."""
    damaged: WhenDamaged = "refuse"
    """What to do about a row that holds no text: refuse the data, or pass it by and count it."""

    def documents(self, skipped: Skipped) -> Iterator[Document]:
        domain = self.domain or Path(self.name).name or "text"
        empty = True
        for number, row in enumerate(self._rows(), start=1):
            try:
                text = text_of(row, self.field)
            except Damage as damage:
                pass_by(self.damaged, skipped, f"{self.name} row {number}", damage)
                continue
            if text:
                empty = False
                yield Document(f"{self.name}:{number}", domain, text, held_out_key=digest(text))
        if empty:
            raise nothing_left(self.name, skipped, f"{self.name} holds no text in the column '{self.field}'")

    def fingerprint(self) -> str:
        """Of a folder, its content; of a dataset on the Hub, what the library calls it, which names the commit."""
        folder = given(self.name)
        if folder.is_dir():
            return content_of(_below(folder))
        library = _library()
        with self._asking():
            builder = library.load_dataset_builder(self.name, self.config, revision=self.revision)
        return f"{builder.dataset_name} {builder.config.name} {builder.info.version} {builder.hash}"

    def of_one_domain(self) -> bool:
        return True

    def stamp(self) -> str:
        folder = given(self.name)
        return times_of(_below(folder)) if folder.is_dir() else self.fingerprint()

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        """The rows, the field's column alone where the columns are known.

        Raises:
            DataError: when the library does not find or cannot read them.
        """
        library, folder = _library(), given(self.name)
        saved = any((folder / name).is_file() for name in SAVED)
        with self._asking():
            if saved:
                data = self._chosen(library.load_from_disk(str(folder)))
            else:
                name = str(folder) if folder.is_dir() else self.name
                data = library.load_dataset(
                    name, self.config, split=self.split, streaming=self.streaming, revision=self.revision
                )
            columns = list(data.features or ())
            column = self.field if self.field in columns else self.field.split(".")[0]
            if columns and column not in columns:
                raise DataError(
                    f"{self.name} has no column '{self.field}' (it has: {', '.join(columns)}); name one in the "
                    "source's field."
                )
            yield from data.select_columns([column]) if columns else data

    def _chosen(self, data: Any) -> Any:
        """The split of what `save_to_disk` wrote: one dataset, or several by split."""
        for option in ("config", "revision"):
            if getattr(self, option) is not None:
                raise DataError(f"{self.name} was written by save_to_disk and has no {option}; leave it out.")
        if isinstance(data, dict):
            if self.split not in data:
                raise DataError(f"{self.name} has no split '{self.split}'; name one of: {', '.join(data)}.")
            return data[self.split]
        if "split" in self.model_fields_set and str(data.split) != self.split:
            raise DataError(f"{self.name} holds a single dataset and no splits; leave split out.")
        return data

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """The library's many errors as one."""
        try:
            yield
        except DataError:
            raise
        except Exception as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise DataError(
                f"the dataset {self.name} could not be read ({said}); look at its name, config, split and revision, "
                "and whether the Hub can be reached."
            ) from None


def _below(folder: Path) -> list[tuple[str, Path]]:
    return sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file())


def _library() -> Any:
    try:
        return import_module("datasets")
    except ImportError:
        raise DataError(
            "reading Hugging Face datasets needs the library datasets; install it with: pip install 'sublayer[hf]'"
        ) from None
