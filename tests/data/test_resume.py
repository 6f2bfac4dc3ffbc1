"""A build that is killed, or that a helper deserts, is gone on with, and ends with the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sublayer.data.build as build_module
from sublayer.data.cache import open_or_build
from sublayer.data.config import DataConfig
from sublayer.data.workers import Workers
from sublayer.errors import DataError, RunError

from .conftest import prose


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sublayer.data.chunks.CHUNK", 10_000)


@pytest.fixture
def config(notes: Path, tmp_path: Path) -> DataConfig:
    """A folder of small files, and one that is larger than a chunk."""
    (tmp_path / "large.txt").write_text(prose(500, 700), encoding="utf-8")
    sources = [{"kind": "text", "path": str(path)} for path in (notes, tmp_path / "large.txt")]
    return DataConfig(sources=sources, tokenizer={"kind": "bpe", "vocab_size": 300})


def built(config: DataConfig, cache: Path) -> dict[str, bytes]:
    _, shards = open_or_build(config, cache, lambda stage, done, rate: None)
    assert not list(cache.glob("data/.*"))
    return {path.name: path.read_bytes() for path in sorted(shards.directory.iterdir())}


def killed_at(event: int, config: DataConfig, cache: Path) -> int:
    """Build in a process that is killed when it would write to the cache for the nth time; the number of times."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(name: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            writes = name == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            moves = name in ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
            if (writes or moves) and str(cache) in str(arguments[0]):
                seen += 1
                if seen == event:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            built(config, cache)
        finally:
            os.write(writing, str(seen).encode())
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as said:
        return int(said.read() or event)


def test_a_build_killed_at_any_moment_is_gone_on_with(config: DataConfig, tmp_path: Path) -> None:
    whole = built(config, tmp_path / "whole")
    moments = killed_at(0, config, tmp_path / "counted")
    assert moments > 60
    for event in range(1, moments + 1, 17):
        cache = tmp_path / str(event)
        assert killed_at(event, config, cache) == event
        assert built(config, cache) == whole


def test_a_build_killed_again_and_again_comes_to_an_end(config: DataConfig, tmp_path: Path) -> None:
    whole = built(config, tmp_path / "whole")
    moments = killed_at(0, config, tmp_path / "counted")
    for event in (moments // 9, moments // 6, moments // 3, moments // 3):
        assert killed_at(event, config, tmp_path / "cache") == event
    assert built(config, tmp_path / "cache") == whole


def test_what_was_done_is_not_done_again(config: DataConfig, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    tokenized: list[int] = []
    tokenize, documents = build_module.tokenize, type(config.sources[0]).documents

    def counted(*arguments: object) -> object:
        if len(tokenized) == 3:
            raise OSError(28, "No space left on device")
        tokenized.append(1)
        return tokenize(*arguments)

    monkeypatch.setattr(build_module, "tokenize", counted)
    monkeypatch.setattr(type(config.sources[0]), "documents", lambda *a: (read.append(1), documents(*a))[1])
    monkeypatch.setattr(build_module, "learnt_from", lambda *a: (read.append(1), iter([prose(0, 100)]))[1])
    for _ in range(3):
        with pytest.raises(RunError, match="the disk is full"):
            built(config, own_cache)
        assert len(read) == 3
        tokenized.clear()
    chunks = len(list(own_cache.glob("data/.*.unfinished/chunks/*.npz")))
    assert chunks == 9
    monkeypatch.setattr(build_module, "tokenize", tokenize)
    built(config, own_cache)
    assert len(read) == 3


def test_a_chunk_damaged_on_the_disk_is_made_again(
    config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = built(config, tmp_path / "whole")
    assemble = build_module._Work.assemble

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build_module._Work, "assemble", fail)
    with pytest.raises(RunError):
        built(config, tmp_path / "cache")
    monkeypatch.setattr(build_module._Work, "assemble", assemble)
    for number, path in enumerate(sorted(tmp_path.glob("cache/data/.*/chunks/*.npz"))):
        content = path.read_bytes()
        damaged = (content[:-100], b"", bytes(len(content)), content[:200] + b"xx" + content[202:])
        path.write_bytes(damaged[number % 4])
    assert built(config, tmp_path / "cache") == whole


def test_bad_data_leaves_nothing(notes: Path, own_cache: Path) -> None:
    (notes / "59.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"59\.txt"):
        built(DataConfig(sources={"kind": "text", "path": str(notes)}), own_cache)
    assert [path.suffix for path in (own_cache / "data").iterdir()] == [".lock"]


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, whatever the size of the text and of the machine."""
    monkeypatch.setattr(build_module, "ALONE", 0)
    monkeypatch.setattr(build_module, "n_cores", lambda: 2)


def test_processes_write_what_one_writes(
    config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    whole = built(config, tmp_path / "one")
    request.getfixturevalue("several")
    monkeypatch.setattr(build_module, "write_chunk", None)  # not in this process
    assert built(config, tmp_path / "two") == whole


def test_a_process_that_is_killed_is_one_sentence_and_a_later_call_goes_on(
    config: DataConfig, own_cache: Path, monkeypatch: pytest.MonkeyPatch, several: None
) -> None:
    class Deserted(Workers):
        def each(self, orders):  # type: ignore[no-untyped-def]
            yield next(each := super().each(orders))
            self._processes[0].kill()
            yield from each

    monkeypatch.setattr(build_module, "Workers", Deserted)
    with pytest.raises(RunError, match=r"ended early \(was killed by signal 9, as when memory runs out\); start again"):
        built(config, own_cache)
    assert list(own_cache.glob("data/.*.unfinished/chunks/*.npz"))
    monkeypatch.setattr(build_module, "Workers", Workers)
    built(config, own_cache)


def test_what_goes_wrong_in_a_process_is_told(
    config: DataConfig, own_cache: Path, monkeypatch: pytest.MonkeyPatch, several: None
) -> None:
    order = build_module.order
    (own_cache / "file").parent.mkdir(parents=True)
    (own_cache / "file").touch()
    monkeypatch.setattr(build_module, "order", lambda *a: order(*a[:-1], own_cache / "file" / "chunk"))
    with pytest.raises(RunError, match="could not be written"):
        built(config, own_cache)


def test_a_process_needs_neither_torch_nor_the_command_line() -> None:
    code = "import sys, sublayer.data.worker; sys.exit(any(m in sys.modules for m in ('torch', 'typer', 'rich')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


BUILDER = """
import json, sys
from sublayer.data.cache import cache_directory, open_or_build
from sublayer.data.config import DataConfig

def progress(stage, done, rate):
    print(stage, done, flush=True)

open_or_build(DataConfig.parse(json.loads(sys.argv[1])), cache_directory(), progress)
"""


def helpers(cache: Path) -> list[int]:
    """The processes that tokenize for a cache."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"sublayer.data.worker" in words and any(str(cache).encode() in word for word in words):
            found.append(int(entry.parent.name))
    return found


@pytest.mark.slow
def test_a_large_build_killed_with_its_processes_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # chunks as large as they are
    lines = [prose(number, 200) for number in range(100)]
    for number in range(60):
        (tmp_path / f"{number:02d}.txt").write_text("".join(lines[number % 100 :] + lines[: number % 100]))
    config = DataConfig(sources={"kind": "text", "path": f"{tmp_path}/*.txt", "domain": "d"}, tokenizer="bytes")
    assert sum(path.stat().st_size for path in tmp_path.glob("*.txt")) > build_module.ALONE
    whole = built(config, tmp_path / "whole")
    cache = tmp_path / "cache"
    for stage, kills in (("reading", 1), ("tokenizing", 2)):
        for kill in range(kills):
            builder = subprocess.Popen(
                [sys.executable, "-c", BUILDER, json.dumps(config.tree())],
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"SUBLAYER_CACHE": str(cache)},
            )
            assert builder.stdout is not None
            told = 0
            while told < 2:
                told += builder.stdout.readline().startswith(stage)
            if stage == "tokenizing" and kill == 0:  # what is left later may be little enough for one process
                assert helpers(cache)
            builder.kill()
            builder.communicate()
            for _ in range(100):
                if not helpers(cache):
                    break
                time.sleep(0.1)
            assert not helpers(cache)
    assert list(cache.glob("data/.*.unfinished/chunks/*.npz"))
    assert built(config, cache) == whole
