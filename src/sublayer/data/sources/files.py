"""What all sources of files share: which files a path means, what they are called, and reading them, packed or not."""

import codecs
import glob
import hashlib
import os
import zlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, ClassVar

import zstandard
from pydantic import AfterValidator, Field

from sublayer.data.skipped import Skipped
from sublayer.data.sources.base import SourceConfig
from sublayer.data.sources.damage import Damage, WhenDamaged, nothing_left
from sublayer.errors import DataError

DAMAGED = "a packed file that is damaged or cut short"


@dataclass(frozen=True)
class Packing:
    """A way to pack files.

    Attributes:
        magic: what its files begin with.
        begin: a decompressor; zlib's and zstandard's have the same face.
        error: what that raises.
        sip: packed bytes given to it at once: a hostile file makes at most 16 MB of so many.
    """

    magic: bytes
    begin: Callable[[], Any]
    error: type[Exception]
    sip: int


PACKED = {
    ".gz": Packing(b"\x1f\x8b", lambda: zlib.decompressobj(wbits=31), zlib.error, 1 << 14),
    ".zst": Packing(
        b"\x28\xb5\x2f\xfd", lambda: zstandard.ZstdDecompressor().decompressobj(), zstandard.ZstdError, 1 << 9
    ),
}
"""By suffix."""

EXPANSION = 3.5
"""About how many bytes of text a packed byte holds; for the progress shown."""

BLOCK = 1 << 20
"""Bytes of a file that lines are cut from at once."""


def _is_a_name(domain: str) -> str:
    if not domain.strip() or "/" in domain or not domain.isprintable():
        raise ValueError("must be a short name without '/', such as 'notes'")
    return domain


DomainName = Annotated[str, AfterValidator(_is_a_name)]
"""What a domain may be called in reports."""


class FilesConfig(SourceConfig):
    """A source of files."""

    taken: ClassVar[tuple[str, str]]
    """What the files taken from a folder or a glob are called, and which are passed by."""

    path: str = Field(min_length=1)
    """A file, a folder (read with everything below it) or a glob such as `notes/**/*.md`."""
    domain: DomainName | None = None
    """What to call this text in reports; left out, the file's stem or the folder's name."""
    damaged: WhenDamaged = "refuse"
    """What to do about a document that cannot be read: refuse the data, or pass it by and count it."""

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.domain_name()}\0{content_of(self._files())}".encode()).hexdigest()

    def stamp(self) -> str:
        return times_of(self._files())

    def size(self) -> int:
        return sum(
            round(path.stat().st_size * (EXPANSION if path.suffix in PACKED else 1)) for _, path in self._files()
        )

    @abstractmethod
    def _takes(self, path: Path) -> bool:
        """Whether a file of a folder or a glob is one of this source's."""

    def of_one_domain(self) -> bool:
        return True

    def domain_name(self) -> str:
        """The domain of all its documents."""
        if self.domain is not None:
            return self.domain
        path = given(self.path)
        if path.is_file():
            return _stem(path)
        folder = path if path.is_dir() else _glob_root(self.path)
        return folder.resolve().name or "text"

    def _files(self) -> list[tuple[str, Path]]:
        """The files to read with the names they go by, in the order of the names.

        Raises:
            DataError: when there are none.
        """
        path = given(self.path)
        what, passed_by = self.taken
        if path.is_file():
            return [(path.name, path)]
        if path.is_dir():
            root, found = path, _below(path)
            nothing = f"the folder {path} holds no {what}"
        elif glob.has_magic(self.path):
            root = _glob_root(self.path)
            pattern = path.relative_to(root).as_posix()
            # pathlib's globs would find hidden files as well.
            matches = (root / match for match in glob.iglob(pattern, root_dir=root, recursive=True))  # noqa: PTH207
            found = [match for match in matches if match.is_file()]
            nothing = f"no {what} match {self.path}"
        else:
            raise DataError(f"there is no file or folder {path}; name one that exists in data.sources, or a glob.")
        files = {file.relative_to(root).as_posix(): file for file in found if self._takes(file)}
        if not files:
            raise DataError(f"{nothing} ({passed_by} are passed by); name {what} in data.sources.")
        return sorted(files.items())

    def _nothing(self, skipped: Skipped) -> DataError:
        """The error for when no file gave any text."""
        files = self._files()
        one = f"{files[0][1]} is" if len(files) == 1 else f"all {len(files)} {self.taken[0]} of {self.path} are"
        return nothing_left(self.path, skipped, f"{one} empty")


def content_of(files: Iterable[tuple[str, Path]]) -> str:
    """A digest of the names and the contents of files.

    Raises:
        DataError: when one cannot be read.
    """
    digest = hashlib.sha256()
    for name, path in files:
        with opened(path) as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{name}\0{content}\0".encode())
    return digest.hexdigest()


def times_of(files: Iterable[tuple[str, Path]]) -> str:
    """A digest of the names, sizes and times of change of files.

    Raises:
        DataError: when one cannot be read.
    """
    digest = hashlib.sha256()
    for name, path in files:
        with opened(path) as file:
            status = os.fstat(file.fileno())
        digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def given(path: str) -> Path:
    """A path as a user writes it, with `~` for the home folder."""
    return Path(path).expanduser()


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """The file's bytes, as they lie on the disk.

    Raises:
        DataError: when it cannot be opened or read.
    """
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{path} could not be read ({reason}); name another file or mend this one.") from None


def blocks(path: Path, size: int) -> Iterator[bytes]:
    """A file's content in blocks, unpacked where it is packed with gzip or zstd (told by its first bytes).

    Args:
        path: the file.
        size: bytes in each block but the last.

    Raises:
        Damage: when a packed file is damaged or cut short, or is none though its suffix says so.
        DataError: when the file cannot be read.
    """
    with opened(path) as file:
        begin = file.read(4)
        file.seek(0)
        packing = next((packing for packing in PACKED.values() if begin.startswith(packing.magic)), None)
        if packing is not None:
            yield from _filled(_unpacked(file, packing), size)
        elif begin and path.suffix in PACKED:
            raise Damage(DAMAGED, f"it does not begin as a {path.suffix} file does")
        else:
            yield from iter(lambda: file.read(size), b"")


def _unpacked(file: BufferedReader, packing: Packing) -> Iterator[bytes]:
    """What packed files hold that were put one after another.

    Sips bound the memory; and the libraries' own readers of zstd take a file cut short for a whole one.
    """
    stream = None
    try:
        while sip := file.read(packing.sip):
            while sip:
                stream = stream or packing.begin()
                yield stream.decompress(sip)
                sip = stream.unused_data.lstrip(b"\0") if stream.eof else b""  # gzip's files may end in null bytes
                stream = None if stream.eof else stream
    except packing.error as error:
        raise Damage(DAMAGED, str(error).rstrip(".")) from None
    if stream is not None:
        raise Damage(DAMAGED, "it ends too early")


def _filled(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    """The same bytes in blocks of one size; where they break off, what came before is given first."""
    held: list[bytes] = []
    n_held = 0
    damage: Damage | None = None
    try:
        for piece in pieces:
            held.append(piece)
            n_held += len(piece)
            if n_held >= size:
                content = b"".join(held)
                last = n_held - n_held % size
                yield from (content[at : at + size] for at in range(0, last, size))
                held, n_held = [content[last:]], n_held - last
    except Damage as met:
        damage = met
    if n_held:
        yield b"".join(held)
    if damage is not None:
        raise damage


def lines(path: Path, longest: int, damaged: Callable[[int, Damage], None]) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their numbers from 1, without their ends; blank ones are left out.

    Args:
        path: the file, packed or not.
        longest: bytes; no more than this of a line, and a block, is ever in memory.
        damaged: told the number of a line that is too long, or at which a packed file breaks off; where it returns,
            reading goes on behind it.

    Raises:
        DataError: when the file cannot be read.
    """
    number, tail, too_long = 1, b"", False
    try:
        for block in blocks(path, BLOCK):
            if number == 1 and not tail:
                block = block.removeprefix(codecs.BOM_UTF8)
            *whole, rest = block.split(b"\n")
            for line in whole:
                line, tail = tail + line, b""
                if too_long or len(line) > longest:
                    damaged(number, Damage(_too_long(longest)))
                    too_long = False
                elif line and not line.isspace():
                    yield number, line
                number += 1
            tail = b"" if too_long else tail + rest
            if len(tail) > longest:
                tail, too_long = b"", True
    except Damage as damage:
        damaged(number, damage)
        return
    if too_long:
        damaged(number, Damage(_too_long(longest)))
    elif tail and not tail.isspace():
        yield number, tail


def _too_long(longest: int) -> str:
    return f"a line of more than {longest:,} bytes (longest_line)"


def _stem(path: Path) -> str:
    """The name without its suffix; without two where it is packed."""
    return Path(path.stem).stem if path.suffix in PACKED else path.stem


def _glob_root(pattern: str) -> Path:
    """The folder in front of a glob's first part with a wildcard."""
    fixed: list[str] = []
    for part in given(pattern).parts[:-1]:
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
