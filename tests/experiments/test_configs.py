"""Every config in `experiments/` is whole, and runs."""

from pathlib import Path
from typing import Any

import pytest

from sublayer.api import train
from sublayer.run import read_config

FOLDER = Path(__file__).parents[2] / "experiments"
CONFIGS = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.yaml"))

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
    assert {"experts/dense.yaml", "experts/experts.yaml"} <= set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_it_runs(name: str, library: None, tmp_path: Path) -> None:
    run = train(str(FOLDER / name), out=tmp_path / "run", **SMALL)
    assert set(run.held_out) == {"code", "prose"}
    assert (FOLDER / name).read_text(encoding="utf-8").startswith("# Claim: ")
    assert read_config(tmp_path / "run" / "config.yaml") == run.config
