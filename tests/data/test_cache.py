import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sublayer.data.cache import cache_directory, content_key, open_or_build
from sublayer.data.config import DataConfig
from sublayer.data.shards import Shards
from sublayer.errors import DataError, RunError

from .conftest import prose


def config(notes: Path, **values: object) -> DataConfig:
    given: dict[str, object] = {
        "sources": {"kind": "text", "path": str(notes)},
        "tokenizer": {"kind": "bpe", "vocab_size": 300},
    }
    return DataConfig(**(given | values))


def built(config: DataConfig, cache: Path) -> tuple[str, Shards, list[str]]:
    stages: list[str] = []
    key, shards = open_or_build(config, cache, lambda stage, done, rate: stages.append(stage))
    return key, shards, list(dict.fromkeys(stages))


ALL_STAGES = ["reading", "learning the tokenizer", "tokenizing"]


def contents(shards: Shards) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(shards.directory.iterdir())}


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_directory() == tmp_path / "cache"
    monkeypatch.delenv("SUBLAYER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_directory() == Path("/x/sublayer")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_directory() == Path("/home/me/.cache/sublayer")


def test_what_is_built_once_is_only_opened_again(notes: Path, own_cache: Path) -> None:
    key, shards, stages = built(config(notes), own_cache)
    assert stages == ALL_STAGES
    assert shards.directory == own_cache / "data" / key
    assert not list(shards.directory.glob("*.text"))
    again, _, stages = built(config(notes), own_cache)
    assert (again, stages) == (key, [])


def test_the_same_text_gives_the_same_files(notes: Path, tmp_path: Path) -> None:
    (_, one, _), (_, two, _) = (built(config(notes), tmp_path / name) for name in ("one", "two"))
    assert contents(one) == contents(two)


def test_how_rows_are_read_and_drawn_builds_nothing_anew(notes: Path, own_cache: Path) -> None:
    key, _, _ = built(config(notes), own_cache)
    source = {"kind": "text", "path": str(notes), "weight": 3.0}
    other = config(notes, sources=source, sequence_length=8, isolate_documents=False)
    assert built(other, own_cache)[::2] == (key, [])


@pytest.mark.parametrize("change", ["text", "file", "tokenizer", "share", "validation", "domain"])
def test_what_decides_the_tokens_is_in_the_key(notes: Path, own_cache: Path, change: str) -> None:
    before = config(notes)
    key = content_key(before, [source.fingerprint() for source in before.sources])
    after = before
    match change:
        case "text":
            path = notes / "01.txt"
            path.write_text(path.read_text(encoding="utf-8").replace(".", "!"), encoding="utf-8")
        case "file":
            (notes / "new.txt").write_text("new", encoding="utf-8")
        case "tokenizer":
            after = config(notes, tokenizer="bytes")
        case "share":
            after = config(notes, validation_share=0.1)
        case "validation":
            after = config(notes, validation={"kind": "text", "path": str(notes / "01.txt")})
        case "domain":
            after = config(notes, sources={"kind": "text", "path": str(notes), "domain": "other"})
    assert built(after, own_cache)[0] != key


def test_a_tokenizer_file_is_in_the_key_by_its_content(notes: Path, own_cache: Path, tmp_path: Path) -> None:
    _, shards, _ = built(config(notes), own_cache)
    shards.tokenizer.save(tmp_path / "mine")
    given = config(notes, tokenizer={"kind": "file", "path": str(tmp_path / "mine")})
    key, _, stages = built(given, own_cache)
    assert stages == ["reading", "learning the tokenizer", "tokenizing"]
    built(config(notes, tokenizer={"kind": "bpe", "vocab_size": 280}), own_cache)[1].tokenizer.save(tmp_path / "mine")
    assert built(given, own_cache)[0] != key


@pytest.mark.parametrize(
    "damage", ["a cut shard", "a lost shard", "a cut manifest", "a lost manifest", "a cut tokenizer"]
)
def test_damage_is_noticed_and_built_anew(notes: Path, own_cache: Path, damage: str) -> None:
    _, shards, _ = built(config(notes), own_cache)
    whole = contents(shards)
    what, name = damage.split(" ", 1)[1].split(" ")
    names = {"shard": "0000-0-training.tokens", "manifest": "manifest.json", "tokenizer": "tokenizer.json"}
    file = shards.directory / names[name]
    if what == "lost":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-2] if name == "shard" else file.read_bytes()[:50])
    with pytest.raises(DataError, match=f"{file.name}.*") as caught:
        Shards(shards.directory)
    assert "\n" not in str(caught.value)
    _, again, stages = built(config(notes), own_cache)
    assert stages == ALL_STAGES
    assert contents(again) == whole


def test_another_tokenizer_beside_the_tokens_is_noticed(notes: Path, own_cache: Path) -> None:
    _, shards, _ = built(config(notes), own_cache)
    built(config(notes, tokenizer="bytes"), own_cache)[1].tokenizer.save(shards.directory)
    with pytest.raises(DataError, match="is not the one the tokens were made with"):
        Shards(shards.directory)


def test_a_source_that_changes_while_it_is_read_is_refused(notes: Path, own_cache: Path) -> None:
    def touch(stage: str, done: float, rate: float) -> None:
        (notes / "59.txt").write_text("changed", encoding="utf-8")

    with pytest.raises(DataError, match="the text source changed while it was read"):
        open_or_build(config(notes), own_cache, touch)
    assert [path.suffix for path in (own_cache / "data").iterdir()] == [".lock"]


def test_a_source_that_was_only_touched_has_not_changed(notes: Path, own_cache: Path) -> None:
    def touch(stage: str, done: float, rate: float) -> None:
        os.utime(notes / "59.txt", (0, 0))

    open_or_build(config(notes), own_cache, touch)


def test_a_cache_that_cannot_be_written_is_one_sentence(notes: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"could not be written: "):
        open_or_build(config(notes), tmp_path / "file", lambda stage, done, rate: None)


@pytest.mark.parametrize("room", [0.1, 1.2])  # of the text: full while it is written down, and while the tokens are
def test_a_full_disk_is_one_sentence_and_a_later_call_goes_on(notes: Path, own_cache: Path, room: float) -> None:
    limit = int(room * sum(file.stat().st_size for file in notes.rglob("*.txt")))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    stages: list[str] = []
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        with pytest.raises(RunError, match="the disk is full: "):
            open_or_build(config(notes, tokenizer="bytes"), own_cache, lambda stage, done, rate: stages.append(stage))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert ("learning the tokenizer" in stages) == (room > 1)
    assert sorted(path.suffix for path in (own_cache / "data").iterdir()) == [".lock", ".unfinished"]
    assert bool(list(own_cache.glob("data/.*.unfinished/*.text"))) == (room > 1)
    assert built(config(notes, tokenizer="bytes"), own_cache)[2] == ALL_STAGES
    assert not list(own_cache.glob("data/.*"))


def test_text_larger_than_the_limits_gives_the_same_tokens(
    notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = contents(built(config(notes), tmp_path / "one")[1])
    monkeypatch.setattr("sublayer.data.spool.PIECE", 200)
    monkeypatch.setattr("sublayer.data.tokenizing.BATCH", 500)
    monkeypatch.setattr("sublayer.data.chunks.CHUNK", 10_000)
    monkeypatch.setattr("sublayer.data.spool.BLOCK", 7)
    monkeypatch.setattr("sublayer.data.sources.text.PIECE", 333)
    assert contents(built(config(notes), tmp_path / "two")[1]) == whole


def test_a_tokenizer_learns_from_no_more_than_the_limit(
    notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = built(config(notes), tmp_path / "one")[1].tokenizer
    monkeypatch.setattr("sublayer.data.sample.LEARN_FROM", 2000)
    monkeypatch.setattr("sublayer.data.sample.UNIT", 500)
    few = built(config(notes), tmp_path / "two")[1].tokenizer
    assert few.encode(prose(0, 20)) != full.encode(prose(0, 20))
    assert few.decode(few.encode(prose(0, 20))) == prose(0, 20)


BUILDER = """
import json, os, signal, sys, time
from pathlib import Path
import sublayer.data.cache as cache
from sublayer.data.config import DataConfig

how, stage_to_die = sys.argv[2], sys.argv[3]
if how == "unlocked":
    cache._locked = lambda descriptor: False
stages = set()

def progress(stage, done, rate):
    stages.add(stage)
    if stage == stage_to_die:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)

config = DataConfig.parse(json.loads(sys.argv[1]))
key, shards = cache.open_or_build(config, cache.cache_directory(), progress)
print(key, len(stages), sum(stream.tokens for stream in shards.streams), len(shards.tokens(shards.streams[0])))
"""


def start(config: DataConfig, how: str = "locked", stage_to_die: str = "never") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, json.dumps(config.tree()), how, stage_to_die]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("stage", ["reading", "tokenizing"])
def test_a_killed_build_never_looks_finished(notes: Path, own_cache: Path, stage: str) -> None:
    killed = start(config(notes), stage_to_die=stage)
    assert killed.wait(60) == -signal.SIGKILL
    killed.communicate()
    assert list(own_cache.glob("data/.*.unfinished"))
    assert not list(own_cache.glob("data/*/manifest.json"))
    _, shards, stages = built(config(notes), own_cache)
    assert stages == ALL_STAGES
    assert not list(own_cache.glob("data/.*"))  # what the killed one left is gone
    assert len(shards.tokens(shards.streams[0])) == shards.streams[0].tokens


@pytest.mark.parametrize("how", ["locked", "unlocked"])
def test_builders_of_the_same_tokens_do_not_disturb_one_another(notes: Path, how: str) -> None:
    builders = [start(config(notes), how) for _ in range(3)]
    outputs = [builder.communicate(timeout=60) for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0, 0], outputs
    keys, stages, *tokens = zip(*(output.split() for output, _ in outputs), strict=True)
    assert len(set(keys)) == len(set(tokens[0])) == len(set(tokens[1])) == 1
    if how == "locked":
        assert sorted(stages) == ["0", "0", "3"]  # one built, the others waited and opened
