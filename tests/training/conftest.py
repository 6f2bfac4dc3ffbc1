from pathlib import Path

import pytest

from .runs import write_notes


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of text that no test changes."""
    return write_notes(tmp_path_factory.mktemp("data") / "notes")


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBLAYER_CACHE", str(cache))


@pytest.fixture(autouse=True)
def no_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes as long as such a run; what draws has tests of its own."""
    monkeypatch.setattr("sublayer.api.draw_curve", lambda *_: None, raising=False)
    monkeypatch.setattr("sublayer.api.draw_heat_map", lambda *_: None, raising=False)
