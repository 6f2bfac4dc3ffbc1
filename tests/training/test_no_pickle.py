"""No pickle is ever loaded: not on the way of a whole run, and by no line of the source."""

import ast
import pickle
from pathlib import Path

import pytest
import torch

import sublayer
from sublayer.api import generate, load, train

from .runs import Crash, CrashAt, tree


class PickleLoaded(BaseException):
    """Not an Exception, so that nothing on the way can catch it and go on."""


def refuse(*_: object, **__: object) -> None:
    raise PickleLoaded


def test_a_whole_run_loads_no_pickle(notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What libraries load while they are imported is theirs; a run without the net makes them do so.
    train(tree(notes, steps=1, logging={"tensorboard": True}), out=tmp_path / "before")
    for name in ("load", "loads", "Unpickler", "_Unpickler", "_load", "_loads"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    for name in ("load", "_load", "_legacy_load"):
        monkeypatch.setattr(torch.serialization, name, refuse)
    monkeypatch.setattr(torch.distributed.checkpoint.filesystem.pickle, "load", refuse)
    with pytest.raises(PickleLoaded):  # the net holds
        torch.load(tmp_path / "nothing")

    config = tree(notes, optimizer="muon", logging={"every": 1, "tensorboard": True})
    with pytest.raises(Crash):
        train(config, out=tmp_path / "run", watcher=CrashAt(4))
    train(out=tmp_path / "run", resume=True)
    model, tokenizer = load(tmp_path / "run" / "best")
    assert generate(model, tokenizer, "the ", max_tokens=3, seed=0)
    # And nothing that the run left is one: a pickle of protocol 2 and later begins with \x80.
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or path.read_bytes()[:1] != b"\x80", path


FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {("torch", "load"), ("torch.serialization", "load"), ("numpy", "load"), ("np", "load")}


def offences(source: str) -> list[str]:
    found = []
    nodes = list(ast.walk(ast.parse(source)))
    refusing = [node for node in nodes if isinstance(node, ast.Call)]
    refusing = [node for node in refusing if "allow_pickle=False" in map(ast.unparse, node.keywords)]
    harmless = [node.func for node in refusing]
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.ImportFrom) and node.module in ("torch", "torch.serialization", "numpy"):
            found += [f"{node.module}.{alias.name}" for alias in node.names if alias.name == "load"]
        elif (
            isinstance(node, ast.Attribute)
            and (ast.unparse(node.value), node.attr) in FORBIDDEN_CALLS
            and node not in harmless
        ):
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib",
        "torch.load(x)",
        "from torch import load",
        "np.load(x)",
    ],
)
def test_the_scan_finds_what_it_looks_for(line: str) -> None:
    assert offences(line)
    assert not offences("import json\nfrom safetensors.torch import load_file\njson.load(x)")
    assert not offences("np.load(x, allow_pickle=False)")
    assert offences("np.load(x, allow_pickle=maybe)")


def test_no_line_of_the_source_loads_one() -> None:
    files = sorted(Path(str(sublayer.__file__)).parent.rglob("*.py"))
    assert len(files) > 50
    found = {str(path): offences(path.read_text(encoding="utf-8")) for path in files}
    assert not {path: lines for path, lines in found.items() if lines}
