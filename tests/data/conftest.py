import random
from pathlib import Path

import pytest

TEXT = "when in the course of human events it becomes necessary for one people naïve 東京 to dissolve"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a cache of its own, so none can be passed by what another left."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("SUBLAYER_CACHE", str(cache))
    return cache


def prose(seed: int, lines: int) -> str:
    draw, words = random.Random(seed), TEXT.split()
    return "".join(" ".join(draw.choices(words, k=draw.randint(3, 12))) + ".\n" for _ in range(lines))


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A folder of 60 text files, a few hundred tokens each."""
    folder = tmp_path / "notes"
    (folder / "deeper").mkdir(parents=True)
    for number in range(60):
        place = folder / "deeper" if number % 3 == 0 else folder
        (place / f"{number:02d}.txt").write_text(prose(number, 20), encoding="utf-8")
    return folder


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small standard library for the embedded source to find."""
    folder = tmp_path / "lib" / "python"
    for number in range(80):
        path = folder / ("pack" if number % 2 else ".") / f"module_{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f'"""Module {number} speaks.\n\n{prose(number, 3)}"""\n\n# a comment stays\n'
            + "".join(
                f"def function_{n}(x):\n    '''Return {n}.'''\n    return x + {n * number}\n\n" for n in range(12)
            ),
            encoding="utf-8",
        )
    for left_out in ("test", "pack/tests", "site-packages", "idlelib/idle_test", "lib2to3", "__pycache__"):
        path = folder / left_out / "hidden.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('"""must not be seen"""\nmust_not_be_seen = 1\n', encoding="utf-8")
    (folder / "broken.py").write_text("this is no (python\n", encoding="utf-8")
    topics = {f"topic{number}": f"Help on topic {number}.\n\n{prose(100 + number, 4)}" for number in range(30)}
    (folder / "pydoc_data").mkdir()
    (folder / "pydoc_data" / "topics.py").write_text(f"topics = {topics!r}\n", encoding="utf-8")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(folder) if name == "stdlib" else None)
    return folder
