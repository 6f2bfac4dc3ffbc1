"""The scripts that the docs show."""

import runpy
from pathlib import Path

import pytest

from sublayer.checkpoint import load_weights
from tests.ranks import on_ranks

SCRIPT = Path(__file__).parents[2] / "docs/examples/experts_on_ranks.py"


def shown(rank: int, folder: Path) -> None:
    runpy.run_path(str(SCRIPT))["main"](folder, steps=2, batch_size=4)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBLAYER_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
def test_experts_on_ranks(tmp_path: Path) -> None:
    """Two ranks train the model that one trains."""
    weights = []
    for n_ranks in (1, 2):
        folder = tmp_path / str(n_ranks)
        folder.mkdir()
        on_ranks(n_ranks, shown, folder, folder)
        weights.append(load_weights(folder))
    alone, together = weights
    assert alone.keys() == together.keys()
    for name, weight in alone.items():
        assert (together[name] - weight).abs().max() < 1e-4, name
