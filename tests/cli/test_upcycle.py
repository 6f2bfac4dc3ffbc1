"""`sublayer upcycle`, as it is typed."""

import shlex
from pathlib import Path

import pytest
import torch
import yaml

import sublayer as sl
from sublayer.cli import main
from tests.cli.test_verbs import run
from tests.training.runs import tree


@pytest.fixture
def dense(notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(tree(notes)))
    run(capsys, "train", "my.yaml", "training.steps=2", "--out", "dense")
    return tmp_path / "dense"


def test_a_dense_run_becomes_experts_that_compute_the_same_and_train_on(
    dense: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run(capsys, "upcycle", "dense", "grown", "--experts", "4", "--granularity", "2")
    assert "of them active for a token" in out
    command = shlex.split(out.splitlines()[-1])
    assert command[:2] == ["sublayer", "train"]
    before, tokenizer = sl.load(dense)
    after, _ = sl.load("grown")
    tokens = torch.tensor([tokenizer.encode("the house has rooms and floors")])
    torch.testing.assert_close(after(tokens).logits, before(tokens).logits, rtol=1e-5, atol=1e-5)
    assert after.n_parameters() > before.n_parameters()
    run(capsys, *command[1:], "training.steps=2", "--out", "went-on")
    assert sl.load("went-on")[0].config == after.config


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("dense", "dense"), "dense exists already; name a directory that does not"),
        (("nowhere", "grown"), "there is no directory nowhere"),
        (("dense", "grown", "--top-k", "1"), "dense cannot be upcycled so: top_k: must be at least 2"),
        (("dense", "grown", "--granularity", "7"), "granularity: 7 does not divide d_ff"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_leaves_nothing(
    arguments: tuple[str, ...], words: str, dense: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["upcycle", *arguments])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"sublayer: {words}") or words in error
    assert error.count("\n") == 1
    assert not Path("grown").exists()
