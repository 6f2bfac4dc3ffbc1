"""A source of Parquet files, one document in a column of each row."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from sublayer.data.document import Document
from sublayer.data.skipped import Skipped
from sublayer.data.sources.base import SOURCES
from sublayer.data.sources.damage import Damage, pass_by
from sublayer.data.sources.files import EXPANSION, FilesConfig, opened
from sublayer.data.sources.json_lines import digest, text_of
from sublayer.errors import DataError

SUFFIXES = (".parquet", ".pq")

ROWS = 256
"""Rows in memory at once."""

BUFFER = 1 << 20
"""Bytes of a column read at once."""


@SOURCES.register
class ParquetConfig(FilesConfig):
    """Parquet files, one document a row (extra `parquet`).

    Empty texts are passed by.  The text decides the held-out side, so no text is on both.
    """

    taken: ClassVar[tuple[str, str]] = (".parquet files", "hidden and other files")

    kind: Literal["parquet"] = "parquet"
    field: str = Field(default="text", min_length=1)
    """The column that holds the text; `meta.body` for a field of a structure."""

    def documents(self, skipped: Skipped) -> Iterator[Document]:
        domain = self.domain_name()
        empty = True
        for name, path in self._files():
            number = 0
            try:
                for number, row in enumerate(self._rows(path), start=1):
                    try:
                        text = text_of(_read(row), self.field)
                    except Damage as damage:
                        pass_by(self.damaged, skipped, f"{path} row {number}", damage)
                        continue
                    if text:
                        empty = False
                        yield Document(f"{name}:{number}", domain, text, held_out_key=digest(text))
            except Damage as damage:
                place = f"{path} row {number + 1}" if number else str(path)
                pass_by(self.damaged, skipped, place, damage)
        if empty:
            raise self._nothing(skipped)

    def size(self) -> int:
        return round(EXPANSION * super().size())

    def _takes(self, path: Path) -> bool:
        return path.suffix in SUFFIXES

    def _rows(self, path: Path) -> Iterator[Any]:
        """The field's column, a structure a row; a row group is never in memory as a whole.

        Raises:
            Damage: when the file, or what follows the last row, cannot be read, or there is no such column.
            DataError: when the library is missing.
        """
        try:
            import pyarrow.parquet
        except ImportError:
            raise DataError(
                "reading Parquet files needs the library pyarrow; install it with: pip install 'sublayer[parquet]'"
            ) from None
        with opened(path) as file:
            try:
                table = pyarrow.parquet.ParquetFile(file, buffer_size=BUFFER, pre_buffer=False)
                columns = table.schema_arrow.names
                column = self.field if self.field in columns else self.field.split(".")[0]
                if column not in columns:
                    raise Damage(f"no column '{self.field}'", f"it has: {', '.join(columns)}")
                for group in range(table.num_row_groups):  # one at a time, so that damage costs no row before it
                    for batch in table.iter_batches(ROWS, [group], columns=[self.field], use_threads=False):
                        yield from batch.to_struct_array()
            except (pyarrow.ArrowException, OSError) as error:
                said = str(error).strip().splitlines()[0].rstrip(".")
                raise Damage("a Parquet file that is damaged or cut short", said) from None


def _read(row: Any) -> Mapping[str, Any]:
    """A row's structure as a mapping.

    Raises:
        Damage: when a text in it is not UTF-8.
    """
    try:
        values: Mapping[str, Any] = row.as_py()
    except UnicodeDecodeError as error:
        raise Damage("not UTF-8 text", f"its byte {error.start} cannot be read: {error.reason}") from None
    return values
