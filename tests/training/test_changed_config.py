"""What may change when a run is resumed, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sublayer.api import train
from sublayer.checkpoint import load_state, save_state
from sublayer.errors import CheckpointError, ConfigError, SublayerError
from sublayer.registry import Registry
from sublayer.run_directory import claimed
from sublayer.training import Watcher
from sublayer.training.optimizer import Optimizer
from sublayer.training.state import Checkpoints, Progress, differences

from .runs import Crash, CrashAt, left, tree, write_notes


@pytest.fixture(scope="module")
def broken_off(notes: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a state of step 4."""
    directory = tmp_path_factory.mktemp("broken-off") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUBLAYER_CACHE", str(cache))
        with pytest.raises(Crash):
            train(tree(notes), out=directory, watcher=CrashAt(5))
    return directory


@pytest.fixture
def run(broken_off: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(broken_off, tmp_path / "run"))


@pytest.mark.parametrize(
    ("key", "value", "before"),
    [
        ("training.batch_size", 8, 4),
        ("training.accumulation", 2, 1),
        ("training.seed", 1, 0),
        ("training.optimizer.lr", 0.5, 0.001),
        ("training.clip_norm", None, 1.0),
        ("model.d_model", 32, 16),
        ("model.dropout", 0.5, 0.0),
        ("data.sequence_length", 8, 16),
        ("data.isolate_documents", False, True),
    ],
)
def test_another_config_is_refused(key: str, value: Any, before: Any, run: Path) -> None:
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError) as raised:
        train(out=run, resume=True, **{key: value})
    assert str(raised.value).startswith(f"{key} is {value!r}, but the run in {run} was started with {before!r}")
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2
    # Nothing of the run was touched.
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == files


def test_another_kind_of_part_is_refused(run: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^model.position.kind is 'alibi', but .* was started with 'rope'"):
        train(out=run, resume=True, **{"model.position": "alibi"})


def test_several_changes_are_counted(run: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^model.d_model is 32, .* was started with 16 \(1 more such\)"):
        train(out=run, resume=True, **{"model.d_model": 32, "training.seed": 2})


def older(run: Path, **changes: Any) -> None:
    """Makes the run's last state one of a version that knew fewer options (those of value None), and other ones."""
    loaded = load_state(run / "checkpoints")
    assert loaded is not None
    tensors, metadata = loaded
    for key, value in changes.items():
        *path, last = key.split("__")
        here = metadata["config"]
        for name in path:
            here = here[int(name) if name.isdecimal() else name]
        if value is None:
            del here[last]
        else:
            here[last] = value
    save_state(run / "checkpoints", metadata.pop("step"), tensors, metadata, keep=1)


def test_options_that_came_later_have_their_defaults(run: Path) -> None:
    gone = {
        "training__init_from": None,
        "training__compile": None,
        "training__optimizer__weight_decay": None,
        "model__tied_embeddings": None,
        "model__attention__pattern": None,
        "data__isolate_documents": None,
        "data__sources__0__encoding": None,
    }
    older(run, **gone)
    assert train(out=run, resume=True).config.training.steps == 6
    loaded = load_state(run / "checkpoints")
    assert loaded is not None
    assert loaded[1]["config"]["training"]["init_from"] is None  # and from here on it has them


def test_an_option_that_came_later_and_is_not_at_its_default_is_refused(run: Path) -> None:
    older(run, training__clip_norm=None)
    with pytest.raises(CheckpointError, match=r"^training.clip_norm is 2.0, but .* was started with 1.0"):
        train(out=run, resume=True, **{"training.clip_norm": 2.0})


def test_an_option_that_is_gone_is_a_difference(run: Path) -> None:
    older(run, training__momentum=0.5)
    with pytest.raises(CheckpointError, match=r"^training.momentum is None, but .* was started with 0.5"):
        train(out=run, resume=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.steps", 5),
        ("training.steps", 7),
        ("training.evaluate_every", 1),
        ("training.evaluation_tokens", 32),
        ("training.checkpoint_every", 1),
        ("training.keep_checkpoints", 1),
        ("training.baselines", True),
        ("training.logging.every", 2),
        ("training.logging", {"tensorboard": True}),
    ],
)
def test_what_only_watches_may_change(key: str, value: Any, run: Path) -> None:
    resumed = train(out=run, resume=True, **{key: value})
    tree: Any = resumed.config.tree()
    for name in key.split("."):
        tree = tree[name]
    assert tree == value or value.items() <= tree.items()
    assert left(run)["progress"]["step"] == resumed.config.training.steps


def test_fewer_steps_than_are_done_are_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"training.steps: is 3, but the run in .* has done 4 already"):
        train(out=run, resume=True, **{"training.steps": 3})


@pytest.mark.parametrize("change", ["a file changed", "a file more", "a file less"])
def test_other_data_is_refused(change: str, tmp_path: Path) -> None:
    notes, run = write_notes(tmp_path / "notes"), tmp_path / "run"
    with pytest.raises(Crash):
        train(tree(notes), out=run, watcher=CrashAt(3))
    if change == "a file changed":
        (notes / "0.txt").write_text((notes / "0.txt").read_text() + "one more line\n")
    elif change == "a file more":
        (notes / "9.txt").write_text("one more file\n")
    else:
        (notes / "0.txt").unlink()
    with pytest.raises(CheckpointError, match=r"^the data of the run in .*/run changed since it was started"):
        train(out=run, resume=True)
    write_notes(tmp_path / "notes")
    (notes / "9.txt").unlink(missing_ok=True)
    train(out=run, resume=True)


def test_another_source_is_refused(notes: Path, run: Path, tmp_path: Path) -> None:
    more = write_notes(tmp_path / "more", seed=1)
    sources = [{"kind": "text", "path": str(path)} for path in (notes, more)]
    with pytest.raises(CheckpointError, match=r"^data\.sources is \[.*more"):
        train(out=run, resume=True, **{"data.sources": sources})


PLUGIN = """
from typing import Literal
import torch
from torch import nn
from sublayer.model.initialise import Constant
from sublayer.model.norm import NormConfig
from sublayer.registry import register

class Gain(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.{name} = nn.Parameter(torch.ones(width))
    def initial_values(self):
        return {{"{name}": Constant(1.0)}}
    def forward(self, x):
        return x * self.{name}

@register
class GainConfig(NormConfig):
    '''A gain and no more.'''
    kind: Literal["gain"] = "gain"
    def build(self, width):
        return Gain(width)
"""


def test_a_plugin_that_changed_its_weights_is_one_sentence(notes: Path, tmp_path: Path, registries: None) -> None:
    plugin, run = tmp_path / "gain.py", tmp_path / "run"
    plugin.write_text(PLUGIN.format(name="gain"))
    config = tree(notes, model={"norm": "gain"}) | {"plugins": [str(plugin)]}
    with pytest.raises(Crash):
        train(config, out=run, watcher=CrashAt(3))
    plugin.write_text(PLUGIN.format(name="scale"))
    Registry.families["norm"]._parts.pop("gain")
    with pytest.raises(CheckpointError, match=r"^plugins_sha256\..*gain\.py is '.*', but the run"):
        train(out=run, resume=True)


def test_a_state_that_does_not_fit_the_model_is_one_sentence(tmp_path: Path) -> None:
    """As when a module that a plug-in imports has changed."""
    large, small = torch.nn.Linear(3, 2), torch.nn.Linear(2, 2)
    optimizer = Optimizer([])
    checkpoints = Checkpoints(tmp_path, {}, "data", 1)
    checkpoints.save(Progress(step=1), large, optimizer)
    with pytest.raises(CheckpointError, match=r"does not fit the model \(.*\); bring the old plug-in back") as raised:
        checkpoints.restore(small, optimizer)
    assert "\n" not in str(raised.value)


def test_another_dtype_or_device_is_refused(run: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^dtype: the run was begun in float32 and would go on in bfloat16"):
        train(out=run, resume=True, dtype="bfloat16")


def test_the_number_of_threads_is_that_of_the_beginning(notes: Path, tmp_path: Path) -> None:
    """Though the machine has more cores, or fewer, when the run goes on."""
    before = torch.get_num_threads()
    states = []
    try:
        for cores in (2, 1):
            torch.set_num_threads(cores)
            train(tree(notes), out=tmp_path / "run", resume=cores == 1, **{"training.steps": 9 - 3 * cores})
            newest = max((tmp_path / "run" / "checkpoints").iterdir())
            states.append(json.loads((newest / "state.json").read_text())["progress"])
    finally:
        torch.set_num_threads(before)
    assert [state["step"] for state in states] == [3, 6]
    assert [(state["threads"], state["cores"]) for state in states] == [(2, 1), (2, 1)]


def test_the_config_of_the_resumed_run_is_the_one_that_is_resumed_next(notes: Path, tmp_path: Path) -> None:
    with pytest.raises(Crash):
        train(tree(notes), out=tmp_path / "run", watcher=CrashAt(3))
    with pytest.raises(Crash):
        train(out=tmp_path / "run", resume=True, watcher=CrashAt(5), **{"training.steps": 20})
    assert train(out=tmp_path / "run", resume=True).config.training.steps == 20


# ---------- the directory


def test_an_existing_directory_is_refused(notes: Path, run: Path, tmp_path: Path) -> None:
    for path in (run, tmp_path / "file"):
        if not path.exists():
            path.write_text("mine")
        with pytest.raises(ConfigError, match=rf"--out: {path} exists already; .* or add --resume"):
            train(tree(notes), out=path)


def test_resume_without_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"--resume: there is no run below runs/; name its directory with --out"):
        train(resume=True)
    with pytest.raises(ConfigError, match=r"--resume: elsewhere holds no run .* leave --resume out to start one there"):
        train(out="elsewhere", resume=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"--resume: empty holds no run .* delete it, or name another"):
        train(out="empty", resume=True)


def test_resume_takes_the_newest_run(notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b", "a"):
        with pytest.raises(Crash):
            train(tree(notes), out=f"runs/{name}", watcher=CrashAt(3))
    assert train(resume=True).directory == Path("runs/a")


def test_a_run_without_a_name_gets_one(notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    directory = train(tree(notes, steps=1)).directory
    assert directory.parent == Path("runs")
    assert (tmp_path / directory / "model.safetensors").is_file()


def test_two_processes_in_one_directory_are_refused(run: Path) -> None:
    with claimed(run), pytest.raises(ConfigError, match=r"another process is training in .*/run; wait for it"):
        train(out=run, resume=True)
    train(out=run, resume=True)  # and let go of afterwards


@pytest.mark.parametrize(
    "wrong",
    [
        {"device": "cuda"},
        {"data": {"sources": [{"kind": "text", "path": "/nowhere"}]}},
        {"data": {"sources": [{"kind": "text", "path": "/dev/null"}], "tokenizer": "bytes"}},
        {"model": {"vocab_size": 7}},
    ],
)
def test_a_wrong_request_leaves_nothing_behind(wrong: dict[str, Any], notes: Path, tmp_path: Path) -> None:
    import torch

    if wrong.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(SublayerError) as raised:
        train(tree(notes) | wrong, out=tmp_path / "deep" / "run")
    assert raised.value.exit_code == 2
    assert not (tmp_path / "deep").exists()


def test_a_part_that_cannot_be_built_leaves_nothing_behind(notes: Path, tmp_path: Path, registries: None) -> None:
    plugin = tmp_path / "gain.py"
    plugin.write_text(PLUGIN.format(name="gain").replace("initial_values", "no_values"))
    config = tree(notes, model={"norm": "gain"}) | {"plugins": [str(plugin)]}
    with pytest.raises(ConfigError, match=r"Gain has no rule for this parameter"):
        train(config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_has_begun_is_never_removed(notes: Path, tmp_path: Path) -> None:
    class Wrong(Watcher):
        def evaluated(self, *_: object) -> None:
            raise ConfigError("wrong.")

    with pytest.raises(ConfigError):
        train(tree(notes), out=tmp_path / "run", watcher=Wrong())
    assert (tmp_path / "run" / "metrics.jsonl").is_file()
    with pytest.raises(ConfigError):
        train(out=tmp_path / "run", resume=True, watcher=Wrong())
    assert (tmp_path / "run" / "metrics.jsonl").is_file()


def test_differences_name_the_leaf() -> None:
    before = {"a": {"b": 1, "c": [1, 2]}, "training": {"steps": 1, "logging": {"every": 1}, "seed": 1}}
    now = {"a": {"b": 2, "c": [1, 3]}, "training": {"steps": 2, "logging": {"every": 2}, "seed": 1}, "d": None}
    assert differences(before, now) == [("a.b", 1, 2), ("a.c", [1, 2], [1, 3])]
    assert differences(before, before) == []
