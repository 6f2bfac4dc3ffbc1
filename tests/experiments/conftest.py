"""What experiments read in tests."""

from pathlib import Path

import pytest


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small standard library, since the whole one takes long to make ready."""
    folder = tmp_path / "lib"
    folder.mkdir()
    for number in range(40):
        lines = "".join(f"def function_{n}(x):\n    return x + {n * number}\n\n" for n in range(3))
        (folder / f"module_{number}.py").write_text(f'"""Module {number} speaks of {7 * number}."""\n\n{lines}')
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(folder) if name == "stdlib" else None)
    monkeypatch.setenv("SUBLAYER_CACHE", str(tmp_path / "cache"))
