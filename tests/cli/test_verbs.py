"""The verbs, as they are typed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sublayer.cli import main
from sublayer.registry import Registry
from sublayer.version import __version__
from tests.training.runs import tree

PLUGIN = Path(__file__).parents[2] / "docs" / "examples" / "my_part.py"


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """What a command line that ends well prints."""
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert left.value.code == 0, err
    return out


@pytest.fixture
def config(notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(tree(notes, baselines=True)))
    return path


def test_train_then_generate_then_resume(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "train", "my.yaml", "training.steps=4", "--out", "a run")
    assert "step 4/4" in out
    assert "held-out text after 4 steps" in out
    assert " s of training: " in out
    assert "bigram (Witten–Bell)" in out
    assert "lzma" in out
    assert "notes: the model " in out  # who won
    assert "a sample of notes" in out
    # The commands it shows can be typed as they stand.
    assert "sublayer generate 'a run'" in out
    assert "sublayer train --resume --out 'a run' training.steps=8" in out
    out = run(capsys, "generate", "a run", "in the course ", "--max-tokens", "5", "--seed", "1")
    assert out.startswith("in the course ")
    assert run(capsys, "generate", "a run", "in the course ", "--max-tokens", "5", "--seed", "1") == out
    both = run(capsys, "generate", "a run", "in the ", "when ", "--max-tokens", "3", "--temperature", "0")
    assert "in the " in both
    assert "when " in both
    out = run(capsys, "train", "--resume", "--out", "a run", "training.steps=6")
    assert "resuming at step 4" in out
    lines = [json.loads(line) for line in (tmp_path / "a run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]


def test_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "sublayer", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"sublayer {__version__}\n"


def test_parts(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    everything = run(capsys, "parts")
    for family, registry in Registry.families.items():
        assert family in everything
        for part in registry:
            assert part.kind_name() in everything
    assert everything.index("alibi") < everything.index("bpe"), "the model's parts come first"
    positions = run(capsys, "parts", "position")
    assert "shift-invariant" in positions
    assert "alibi" in positions
    assert "swiglu" not in positions
    assert "muon" not in positions
    assert "exact until max_length" in " ".join(run(capsys, "parts", "learned").split())
    rope = run(capsys, "parts", "rope")
    assert "theta" in rope
    assert "10000" in rope
    assert "Su et al" in rope
    with pytest.raises(SystemExit) as left:
        main(["parts", "rpoe"])
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("sublayer: 'rpoe' is no family and no kind; did you mean 'rope'?")


def test_parts_shows_one_s_own(capsys: pytest.CaptureFixture[str], registries: None) -> None:
    shown = run(capsys, "parts", "root_decay", "--plugin", PLUGIN)
    assert "position: root_decay" in shown
    assert "strength" in shown


def test_a_part_of_one_s_own(config: Path, capsys: pytest.CaptureFixture[str], registries: None) -> None:
    run(capsys, "train", config, f"plugins=[{PLUGIN}]", "model.position=root_decay", "training.steps=1", "--out", "run")
    del Registry.families["position"]._parts["root_decay"]
    with pytest.raises(SystemExit) as left:
        main(["generate", "run", "in the "])
    assert left.value.code == 2
    err = capsys.readouterr().err
    assert "'root_decay' is not a position" in err
    assert err.count("\n") == 1
    import sys

    del sys.modules["sublayer_plugin_my_part"]  # as in a new process
    assert run(capsys, "generate", "run", "in the ", "--max-tokens", "2", "--plugin", PLUGIN).startswith("in the ")
