"""Files written aside: whole or not there."""

import errno
import os
from pathlib import Path

import pytest

from sublayer.errors import RunError
from sublayer.files import remove, remove_leftovers, written_aside


def write(target: Path, text: str) -> None:
    with written_aside(target) as aside:
        aside.write_text(text)


def write_folder(target: Path, text: str) -> None:
    with written_aside(target) as aside:
        aside.mkdir()
        (aside / "file").write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_and_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "file"
    with written_aside(target) as aside:
        aside.write_text("one")
        assert not target.exists()
    assert target.read_text() == "one"
    write(target, "two")
    assert target.read_text() == "two"
    assert names(target.parent) == ["file"]


def test_a_directory_appears_whole_and_is_replaced(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", "one")
    write_folder(tmp_path / "folder", "two")
    assert (tmp_path / "folder" / "file").read_text() == "two"
    assert names(tmp_path) == ["folder"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name on this machine")
def test_a_device_or_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RunError, match="no file that could be replaced"):
        write(tmp_path / "pipe", "text")
    assert (tmp_path / "pipe").is_fifo()
    assert names(tmp_path) == ["pipe"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), OSError(errno.EIO, "it broke")])
def test_a_failure_leaves_what_was_there(error: BaseException, tmp_path: Path) -> None:
    write(tmp_path / "file", "before")

    def fail() -> None:
        with written_aside(tmp_path / "file") as aside:
            aside.write_text("half")
            raise error

    with pytest.raises((RunError, ValueError, KeyboardInterrupt)):
        fail()
    assert (tmp_path / "file").read_text() == "before"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_said_to_be_full(number: int, tmp_path: Path) -> None:
    message = r"^the disk is full: .*/file could not be written; free some space"
    with pytest.raises(RunError, match=message), written_aside(tmp_path / "file"):
        raise OSError(number, os.strerror(number))


def test_another_refusal_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/below could not be written: (Not a directory|File exists)\.$"):
        write(tmp_path / "file" / "below", "x")


@pytest.mark.parametrize("error", [OSError(errno.EIO, "it broke"), KeyboardInterrupt()])
def test_a_directory_whose_successor_cannot_come_comes_back(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "folder", "one")
    real = Path.rename

    def broken(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise error
        return real(self, target)

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises((RunError, KeyboardInterrupt)):
        write_folder(tmp_path / "folder", "two")
    assert (tmp_path / "folder" / "file").read_text() == "one"
    assert names(tmp_path) == ["folder"]


def test_everything_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real_sync = os.fsync

    def sync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real_sync(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("asks Linux for the names of open files")
    monkeypatch.setattr(os, "fsync", sync)
    write_folder(tmp_path / "folder", "one")
    assert sorted(synced[:-1]) == sorted([f".folder.{os.getpid()}.partial", "file"])
    assert synced[-1] == tmp_path.name


def test_leftovers_are_deleted(tmp_path: Path) -> None:
    write(tmp_path / "file", "whole")
    (tmp_path / ".file.123.partial").write_text("half")
    (tmp_path / ".folder.123.partial").mkdir()
    (tmp_path / ".folder.123.partial" / "file").write_text("half")
    (tmp_path / ".hidden").write_text("of the user")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".hidden", "file"]


def test_what_stepped_aside_for_nothing_is_put_back(tmp_path: Path) -> None:
    for name, text in ((".best.dir.123.old", "one"), ("there", "two"), (".there.123.old", "stale")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(text)
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["best.dir", "there"]
    assert (tmp_path / "best.dir" / "file").read_text() == "one"
    assert (tmp_path / "there" / "file").read_text() == "two"


def test_a_link_is_removed_and_not_what_it_points_to(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", "kept")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    remove(tmp_path / "link")
    assert names(tmp_path) == ["folder"]
    remove(tmp_path / "nothing")
