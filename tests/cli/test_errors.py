"""A wrong request: exit code 2, one line that names what is wrong, and nothing left behind."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from sublayer.api import train
from sublayer.cli import main
from sublayer.errors import RunError
from tests.training.runs import tree, write_notes

Fails = Callable[..., str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Fails:
    """Runs a command line that must fail, and gives the line it says, without `sublayer: `."""

    def run(*arguments: str | Path, code: int = 2) -> str:
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert left.value.code == code, err
        assert err.startswith("sublayer: "), err
        assert err.count("\n") == 1, err
        assert err.endswith("\n")
        assert all(line.endswith("…") for line in out.splitlines()), out  # at most how far it came
        return err.removeprefix("sublayer: ").strip()

    return run


@pytest.fixture
def config(notes: Path, here: Path) -> Path:
    path = here / "my.yaml"
    path.write_text(yaml.safe_dump(tree(notes)))
    return path


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.position=rotaryy",
            "model.position: 'rotaryy' is not a position; did you mean 'rotary'?",
        ),
        ("model.attention.n_heads=3", "model.attention: n_heads (3) does not divide d_model (16)"),
        ("modell.d_model=3", "unknown key 'modell'; did you mean 'model'?"),
        ("model.d_modell=3", "model: unknown key 'd_modell'; did you mean 'd_model'?"),
        ("model.attention.n_headz=3", "model.attention: unknown key 'n_headz'; did you mean 'n_heads'?"),
        ("training.optimizer.betaz=3", "training.optimizer: "),
        ("training.steps=0", "training.steps: must be greater than or equal to 1, not 0"),
        ("training.steps=soon", "training.steps: must be a number, not 'soon'"),
        ("training.steps=", "training.steps: must be a valid integer, not None"),
        ("data.sources.5.path=x", "data.sources.5.path: '5' is no place in a list of 1; count from 0"),
        ("data.sources.0.path=/nowhere/at/all", "there is no file or folder /nowhere/at/all"),
        ("data.sequence_length=100000", "data.sequence_length (100000) is longer than"),
        ("model.max_length=8", "data.sequence_length (16) is longer than"),
        ("model.vocab_size=5", "model.vocab_size: is 5, but the tokenizer has 257 tokens"),
        ("training.logging.wandb=mine", "training.logging.wandb: the package wandb is not installed"),
        ("version=9", "version: this sublayer reads configs of version 1, not 9"),
        ("=1", "'=1' is no override"),
    ],
)
def test_a_wrong_value(
    override: str, message: str, config: Path, here: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    extra = ["model.position=learned"] if "longer" in message else []
    assert message in fails("train", config, override, *extra, "--out", here / "run")
    assert sorted(path.name for path in here.iterdir()) == ["my.yaml"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "my.yaml is empty"),
        (b"training: {steps: [}\n", "my.yaml is not valid YAML in line 1, column 20"),
        (b"training:\n  steps: 3\n bad: 4\n", "my.yaml is not valid YAML in line 3"),
        (b"- 1\n", "my.yaml holds no mapping"),
        (b"\xff\xff", "my.yaml is no text in UTF-8"),
        (b"trainingg: {steps: 3}\n", "unknown key 'trainingg'; did you mean 'training'?"),
    ],
)
def test_a_wrong_file(content: bytes, message: str, config: Path, here: Path, fails: Fails) -> None:
    config.write_bytes(content)
    assert message in fails("train", "my.yaml")
    assert sorted(path.name for path in here.iterdir()) == ["my.yaml"]


def test_wrong_arguments(config: Path, here: Path, fails: Fails) -> None:
    (here / "folder").mkdir()
    assert "there is no config nowhere.yaml" in fails("train", "nowhere.yaml")
    assert "there is no config folder/config.yaml" in fails("train", "folder")
    assert "'my.yaml' is one config too many" in fails("train", "my.yaml", "my.yaml")
    assert "there is no config training.steps" in fails("train", "training.steps")
    assert "--preset: there is no preset 'none'; choose from: bert-base, " in fails("train", "--preset", "none")
    assert "give either a preset or the config" in fails("train", "my.yaml", "--preset", "default")
    assert "--out: folder exists already" in fails("train", "my.yaml", "--out", "folder")
    assert "--resume: there is no run below runs/" in fails("train", "--resume")
    assert "--resume: folder holds no run" in fails("train", "--resume", "--out", "folder")
    assert sorted(path.name for path in here.iterdir()) == ["folder", "my.yaml"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--stepz", "3"], "No such option: --stepz"),
        (["trian"], "No such command 'trian'"),
        (["generate"], "Missing argument 'DIR'"),
        (["generate", "somewhere"], "PROMPT: give either a text to go on from or, with --chat, a question"),
        (["generate", "somewhere", "x", "--chat", "y"], "PROMPT: give either a text to go on from or, with --chat"),
        (["generate", "somewhere", "x", "--system", "y"], "--system: stands before a question"),
        (["generate", "somewhere", "x", "--max-tokens", "0"], "Invalid value for '--max-tokens'"),
        (["generate", "somewhere", "x", "--max-tokens", "many"], "Invalid value for '--max-tokens'"),
        (["train", "--out"], "--out"),
    ],
)
def test_a_command_line_that_is_none(arguments: list[str], message: str, here: Path, fails: Fails) -> None:
    said = fails(*arguments)
    assert message in said
    assert said.endswith("--help.")


@pytest.mark.parametrize("source", ["empty folder", "empty file", "too short", "not text", "bad encoding"])
def test_text_that_is_not_enough(source: str, config: Path, here: Path, fails: Fails) -> None:
    path = here / "text"
    if source == "empty folder":
        path.mkdir()
    else:
        path.write_bytes(
            {"empty file": b"", "too short": b"abc", "not text": b"\0\1\2"}.get(source, b"abc \xff\xff" * 50)
        )
    said = fails("train", config, f"data.sources.0.path={path}", "--out", here / "run")
    assert str(path) in said or "data.sources" in said
    assert not (here / "run").exists()


def test_debug_adds_the_traceback(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--debug", "train", "nowhere.yaml"], ["train", "nowhere.yaml", "--debug"]):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        err = capsys.readouterr().err
        assert left.value.code == 2
        assert err.startswith("Traceback (most recent call last):")
        assert "ConfigError" in err
        assert err.splitlines()[-1].startswith("sublayer: there is no config nowhere.yaml")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RunError("the disk is full."), 1, "the disk is full."),
        (RunError("many\n  lines"), 1, "many lines"),
        (MemoryError(), 1, "out of memory: lower training.batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 1, "out of memory"),
        (PermissionError(13, "Permission denied", "/root/x"), 1, "/root/x: Permission denied."),
        (KeyboardInterrupt(), 1, "interrupted."),
    ],
)
def test_what_fails_while_working(
    error: BaseException, code: int, said: str, config: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("sublayer.api.prepare", fail)
    assert said in fails("train", config, "--out", "run", code=code)


def test_a_bug_is_not_hidden(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("sublayer.api.prepare", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["train", str(config), "--out", "run"])


# ---------- a model directory that went through something


@pytest.fixture(scope="module")
def trained(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUBLAYER_CACHE", str(cache))
        patch.setattr("sublayer.api.draw_curve", lambda *_: None, raising=False)
        train(tree(write_notes(folder / "notes")), out=folder / "run")
    return folder / "run"


@pytest.fixture
def run(trained: Path, here: Path) -> Path:
    return Path(shutil.copytree(trained, here / "run"))


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size * 2 // 3)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
def test_generate_from_a_damaged_directory(name: str, run: Path, fails: Fails) -> None:
    cut(run / name)
    assert f"run/{name}" in fails("generate", "run", "the ")
    (run / name).unlink()
    if name in ("config.json", "tokenizer.json"):
        assert name in fails("generate", "run", "the ")


def test_resume_from_a_damaged_state(run: Path, fails: Fails) -> None:
    cut(run / "checkpoints" / "step-00000006" / "model-00001-of-00001.safetensors")
    said = fails("train", "--resume", "--out", "run", "training.steps=8")
    assert said.startswith("the checkpoint run/checkpoints/step-00000006 is damaged (")
    assert said.endswith("delete it to resume from step 4.")


def test_resume_with_another_config(run: Path, fails: Fails) -> None:
    said = fails("train", "--resume", "--out", "run", "training.batch_size=8")
    assert said.startswith("training.batch_size is 8, but the run in run was started with 4; resume with")


def test_resume_of_a_run_whose_config_was_emptied(run: Path, fails: Fails) -> None:
    (run / "config.yaml").write_text("")
    assert "run/config.yaml is empty" in fails("train", "--resume", "--out", "run")


def test_generate_with_wrong_options(run: Path, here: Path, fails: Fails) -> None:
    assert "there is no directory nowhere" in fails("generate", "nowhere", "the ")
    assert "here holds no config.json" in fails("generate", here, "the ")
    assert "--device: there is no 'gpu'; did you mean 'cpu'? choose from: auto, cpu, cuda, mps" in fails(
        "generate", "run", "the ", "--device", "gpu"
    )
    assert "--dtype: there is no 'bf16'; did you mean 'bfloat16'? choose from: auto, float32, bfloat16" in fails(
        "generate", "run", "the ", "--dtype", "bf16"
    )
    assert "top_p" in fails("generate", "run", "the ", "--top-p", "1.5")
    assert "plugins: there is no file" in fails("generate", "run", "the ", "--plugin", "none.py")


def test_a_run_without_a_model_yet_says_how_to_go_on(run: Path, fails: Fails) -> None:
    (run / "model.safetensors").unlink()
    said = fails("generate", "run", "the ")
    assert said == "the run in run has saved no model yet; go on with: sublayer train --resume --out run"


def test_help_needs_no_torch() -> None:
    script = (
        "import sys, sublayer.cli\n"
        "try: sublayer.cli.main(sys.argv[1:])\n"
        "except SystemExit as left: assert left.code == 0, left.code\n"
        "heavy = {'torch', 'numpy', 'tokenizers', 'tensorboard', 'matplotlib', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    for arguments in (["--help"], ["train", "--help"]):
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "Usage:" in done.stdout


def test_nothing_asked_for_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, shown in (([], "generate"), (["--version"], "sublayer 0."), (["train", "-h"], "--resume")):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 0
        assert shown in capsys.readouterr().out
