"""`sublayer check`, as it is typed and shown."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from sublayer.cli import main
from tests.cli.test_verbs import PLUGIN, run
from tests.preflight.test_check import small


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(small()))
    return path


def test_it_shows_everything(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = run(capsys, "check", config, "model.layers=[{}, {attention: {pattern: {kind: window, size: 8}}}]")
    for word in ("legal · cpu, float32", "layers", "kernels", "cost", "memory", "window 8", "gated silu 96", "rope"):
        assert word in shown
    assert "256 B a token, at most 8" in shown
    assert "0, 2" in shown
    assert "dense passed over: " in shown
    assert "with every pair of a row of 32 tokens" in shown
    assert "exports" not in shown
    assert "speed on this machine" not in shown


@pytest.mark.parametrize(
    ("attention", "words"),
    [
        ("{kind: latent, n_heads: 2}", ["latent; 2 × 16; of 64 and 8 rotated; full", "288 B a token"]),
        ("{kind: differential, n_heads: 2, n_kv_heads: 1}", ["differential; 2 × 8, 1 key/value; full"]),
        ("{n_heads: 2, pattern: {kind: window, size: 8, sinks: 3}}", ["window 8 and the first 3", "at most 11"]),
        ("{n_heads: 2, soft_cap: 5.0}", ["sdpa passed over: it has no soft cap"]),
    ],
)
def test_it_shows_each_attention(
    attention: str, words: list[str], config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = run(capsys, "check", config, f"model.attention={attention}")
    for word in words:
        assert word in " ".join(shown.split()), shown


def test_what_decoding_keeps_is_explained(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    window = "model.layers=[{}, {attention: {pattern: {kind: window, size: 8}}}]"
    assert "equals full passes" not in run(capsys, "check", config, window)
    shown = run(capsys, "check", config, window, "model.position=learned", "--explain")
    assert "attention: keys and values" in shown
    assert re.search(r"^0, 2 .* 256 B +with each token +up to 64", shown, re.MULTILINE)
    assert re.search(r"^1 .* 256 B +until 8 tokens, then no more +up to 64", shown, re.MULTILINE)
    # A ring, and full caches, each with a slot more than is kept.
    assert re.search(r"^0, 2 +4.35 kB +8.45 kB +16.6 kB", shown, re.MULTILINE)
    assert re.search(r"^1 +2.3 kB +2.3 kB +2.3 kB", shown, re.MULTILINE)
    encoder = run(capsys, "check", config, "model.stack=encoder", "data.objective=masked", "--explain")
    assert re.search(r"does not decode *$", encoder, re.MULTILINE), "and nothing is said of whether that is exact"


@pytest.mark.parametrize("columns", ["80", "120"])
def test_no_line_is_too_long_and_none_is_cut(
    columns: str, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for arguments in ([str(config)], ["--preset", "mistral"]):
        shown = run(capsys, "check", *arguments)
        assert max(len(line) for line in shown.splitlines()) <= int(columns)
        assert "…" not in shown


def test_json_has_the_keys_that_are_fixed(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = json.loads(run(capsys, "check", config, "--json"))
    assert set(tree["parameters"]) == {"total", "non_embedding", "active"}
    assert tree["flops_per_token"]["training"] > 3 * tree["flops_per_token"]["decoding"] * 0.9
    assert tree["layers"][0]["layers"] == [0, 1, 2]
    assert tree["layers"][0]["attention"]["n_heads"] == 2
    assert tree["memory"]["training"]["peak"] > tree["memory"]["decoding"]["64"] > tree["memory"]["weights"]
    assert tree["exports"] == []
    assert tree["measured"] is None


def test_the_speed_is_shown_when_it_is_asked_for(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = run(capsys, "check", config, "--measure", "training.batch_size=2", "training.steps=3")
    assert "speed on this machine" in shown
    assert shown.count("tokens a second, measured") == 2
    assert "of the speed of matrix products" in shown


def test_presets_directories_and_plug_ins(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "124,439,808" in run(capsys, "check", "--preset", "gpt2")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(config.read_text())
    assert run(capsys, "check", "run") == run(capsys, "check", config)
    assert "root_decay" in run(capsys, "check", config, "model.position=root_decay", "--plugin", PLUGIN)


def test_a_model_s_directory(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import sublayer as sl
    from sublayer.checkpoint import save_model
    from sublayer.data.tokenizer import BytesConfig

    model = sl.Transformer(sl.RunConfig.parse(small()).model)
    save_model(tmp_path / "model", model, BytesConfig().build(lambda: iter(())))
    shown = run(capsys, "check", "model")
    assert f"{model.n_parameters():,}" in shown
    assert "at its peak" not in shown
    with pytest.raises(SystemExit) as left:
        main(["check", "model", "model.d_model=64"])
    assert left.value.code == 2
    assert "nothing to override" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model.attention.n_heads=5"], "model.attention: n_heads (5) does not divide d_model"),
        (["nothing.yaml"], "there is no config nothing.yaml"),
        (["--preset", "gtp2"], "there is no preset 'gtp2'; did you mean 'gpt2'?"),
        (["my.yaml", "--preset", "gpt2"], "give either a preset or the config"),
        (["my.yaml", "your.yaml"], "is one config too many"),
        (["model.d_model=1000000000000"], "model: no such model can be built"),
    ],
)
def test_a_wrong_request_is_one_sentence(
    arguments: list[str], words: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["check", *arguments])
    assert left.value.code == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_it_is_quick() -> None:
    """Beside PyTorch's import, which is most of it and takes longer on a machine that does something else as well."""
    seconds: dict[str, list[float]] = {"import torch": [], "from sublayer.cli import main; main(['check'])": []}
    for _ in range(3):
        for program, times in seconds.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
            times.append(time.perf_counter() - began)
    alone, checking = (min(times) for times in seconds.values())
    assert checking < 4 * alone
