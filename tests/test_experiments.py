"""Every config in `experiments/` is whole, and runs."""

from pathlib import Path
from typing import Any

import pytest

from sublayer.api import train
from sublayer.run import read_config

FOLDER = Path(__file__).parents[1] / "experiments"
CONFIGS = sorted(path.name for path in FOLDER.glob("*.yaml"))

SMALL: dict[str, Any] = {
    "model.d_model": 16,
    "model.attention.n_heads": 2,
    "model.n_layers": 1,
    "data.tokenizer": "bytes",
    "data.validation_share": 0.5,
    "training.steps": 2,
    "training.batch_size": 4,
    "training.evaluation_tokens": 200,
    "training.logging.tensorboard": False,
}


def test_there_are_some() -> None:
    assert {"masked-encoder.yaml", "span-corruption.yaml", "classifier.yaml"} <= set(CONFIGS)


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


@pytest.mark.parametrize("name", CONFIGS)
def test_it_runs(name: str, library: None, tmp_path: Path) -> None:
    run = train(str(FOLDER / name), out=tmp_path / "run", **SMALL)
    assert set(run.held_out) == {"code", "prose"}
    assert (FOLDER / name).read_text(encoding="utf-8").startswith("# Claim: ")
    assert read_config(tmp_path / "run" / "config.yaml") == run.config
