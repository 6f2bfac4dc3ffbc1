"""`sublayer routing`."""

import json
import re
import shutil
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import sublayer as sl
from sublayer.checkpoint import save_model
from sublayer.cli import main
from sublayer.cli.routing_figures import notes as notes_on
from sublayer.measures.routing import measure_routing
from tests.measures.routing.planted import V, model, reading
from tests.training.runs import tree, write_notes

EXPERTS = {"kind": "experts", "n_experts": 4, "top_k": 2, "expert": {"kind": "dense", "d_ff": 8}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a model with experts on two domains, all of whose states are kept."""
    folder = tmp_path_factory.mktemp("routing")
    values = tree(write_notes(folder / "words"), model={"n_layers": 2, "feed_forward": EXPERTS}, keep_checkpoints=9)
    numbers = folder / "numbers"
    numbers.mkdir()
    for number in range(4):
        (numbers / f"{number}.txt").write_text("".join(f"{n * n} " for n in range(number, 300)))
    values["data"]["sources"].append({"kind": "text", "path": str(numbers)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUBLAYER_CACHE", str(folder / "cache"))
        patch.setattr("sublayer.api.draw_curve", lambda *_: None)
        sl.train(values, out=folder / "run")
    return folder


@pytest.fixture(autouse=True)
def own_cache(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBLAYER_CACHE", str(made / "cache"))
    monkeypatch.setenv("COLUMNS", "100")


def run(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 0) -> str:
    with pytest.raises(SystemExit) as left:
        main(["routing", *map(str, words)])
    out, err = capsys.readouterr()
    assert left.value.code == code, err
    return out if code == 0 else err


def test_what_is_told_of_a_run(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    out = run(capsys, made / "run", "--out", page)
    for words in (
        "read: numbers (",
        "2 of 4",
        "what experts tell of the domain",
        "experts together",
        "step 2  step 4  by chance",
        "tokens of which an expert of layer 1 has the most",
        "· by vocabulary, all layers are above the shuffled baseline",
        "shuffled over stretches",
    ):
        assert words in out, words
    assert max(map(len, out.splitlines()[:-1])) <= 100
    text = page.read_text()
    # Nothing is read from elsewhere: all that is loaded stands in the page.
    assert all(address.startswith("data:") for address in re.findall(r"(?:src|href)=\"([^\"]*)", text))
    assert "<script" not in text and "@import" not in text and "<link" not in text
    pictures = [b64decode(data).decode() for data in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", text)]
    assert len(pictures) == text.count("<h2>") - 1 == 6
    assert all(picture.startswith("<?xml") and "http" not in _loaded(picture) for picture in pictures)
    assert "load over an even one" in pictures[0]
    before = page.read_bytes()
    run(capsys, made / "run", "--out", page)
    assert page.read_bytes() == before


def test_nothing_is_cut_off_on_80_columns(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, tokenizer = sl.load(made / "run")
    values = {"vocab_size": tokenizer.vocab_size, "d_model": 16, "n_layers": 1, "stack": "encoder_decoder"}
    own = {"feed_forward": {"router": "expert_choice"}}
    config = sl.ModelConfig.parse({**values, "attention": {"n_heads": 2}, "feed_forward": EXPERTS, "encoder": own})
    save_model(tmp_path / "model", sl.Transformer(config), tokenizer)
    out = run(capsys, tmp_path / "model", "--text", made / "words", "--text", made / "numbers", "--tokens", "64")
    for words in ("encoder 0  expert_choice   2 of 4", "what experts tell of the domain\nlayer "):
        assert words in out, words
    tables, tokens = out.split("tokens of which")
    assert "…" not in tables
    assert re.findall(r"^\d(?=  +\d+\.\d%)", tokens, re.MULTILINE) == ["0", "1", "2", "3"]


def _loaded(picture: str) -> str:
    """What a picture refers to, but for names of formats."""
    return " ".join(re.findall(r"xlink:href=\"([^\"]*)", picture))


def test_the_page_lies_in_the_directory(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "run"
    shutil.copytree(made / "run", own)
    assert run(capsys, own, "--json")
    assert not (own / "routing.html").exists()
    assert str(own / "routing.html") in run(capsys, own)
    assert (own / "routing.html").is_file()


def test_json_holds_every_figure(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(run(capsys, made / "run", "--json"))
    assert told["last_step"] == 6
    assert list(told["domains"]) == ["numbers", "words"]
    tokens = sum(each["tokens"] for each in told["domains"].values())
    assert [layer["layer"] for layer in told["layers"]] == ["layers.0.feed_forward", "layers.1.feed_forward"]
    for layer in told["layers"]:
        assert layer["tokens"] == tokens
        assert sum(layer["load"]["tokens"]) == 2 * tokens
        by_domain = layer["domains"]["tokens"].values()
        assert [sum(column) for column in zip(*by_domain, strict=True)] == layer["load"]["tokens"]
        # Two alphabets: whatever the ids say, the domain follows from it.
        assert layer["vocabulary"]["information"]["above_baseline"]
        assert [state["step"] for state in layer["saturation"]] == [2, 4]
        assert layer["saturation"][0]["share"] <= layer["saturation"][1]["share"] + 0.1
        assert layer["coactivation"]["tokens"][0][0] == layer["load"]["tokens"][0]
        assert [step["batch"] for step in layer["decode_steps"]][:3] == [1, 2, 4]
    fewer = json.loads(run(capsys, made / "run", "--json", "--tokens", "32"))
    assert {name: each["tokens"] for name, each in fewer["domains"].items()} == {"numbers": 32, "words": 32}


def test_text_of_ones_own_for_any_model(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "squares.txt").write_text("1 4 9 16 25 36 49 64 81 100 " * 20)
    told = json.loads(
        run(capsys, made / "run/best", "--json", "--text", tmp_path / "squares.txt", "--text", made / "words")
    )
    assert list(told["domains"]) == ["squares", "words"]
    assert told["layers"][0]["saturation"] == []
    alone = run(capsys, made / "run", "--text", tmp_path / "squares.txt", "--out", tmp_path / "page.html")
    assert "one domain alone was read" in alone
    assert "Specialisation by domain" not in (tmp_path / "page.html").read_text()


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    told = run(capsys, *words, code=2)
    lines = [line for line in told.splitlines() if line.startswith("sublayer: ")]
    assert len(lines) == 1
    return lines[0].removeprefix("sublayer: ")


def test_wrong_requests(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "best is no run (there is no config.yaml)" in refused(capsys, made / "run/best")
    assert "there is no file or folder" in refused(capsys, made / "run", "--text", tmp_path / "none.txt")
    assert "--tokens: is 0" in refused(capsys, made / "run", "--tokens", "0")
    assert "is a directory; name a file in it" in refused(capsys, made / "run", "--out", tmp_path)
    assert "two of them are called 'words'" in refused(
        capsys, made / "run", "--text", made / "words", "--text", made / "words"
    )
    (tmp_path / "empty.txt").write_text("")
    assert "empty.txt is empty" in refused(capsys, made / "run", "--text", tmp_path / "empty.txt")
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.parametrize(
    ("feed_forward", "stack", "why"),
    [
        ("swiglu", "decoder", "its model has no experts, so that none is chosen"),
        ({**EXPERTS, "router": "soft", "top_k": None}, "encoder", "every expert of its model reads mixtures"),
    ],
)
def test_models_whose_experts_are_not_chosen(
    feed_forward: Any, stack: str, why: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, tokenizer = sl.load(made / "run")
    values = {"vocab_size": tokenizer.vocab_size, "d_model": 16, "n_layers": 1, "max_length": 32, "stack": stack}
    config = sl.ModelConfig.parse({**values, "attention": {"n_heads": 2}, "feed_forward": feed_forward})
    save_model(tmp_path / "model", sl.Transformer(config), tokenizer)
    assert why in refused(capsys, tmp_path / "model", "--text", made / "words")


def test_data_that_changed_since(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(made / "run", tmp_path / "run")
    config = tmp_path / "run/config.yaml"
    values = yaml.safe_load(config.read_text())
    values["data"]["tokenizer"] = {"kind": "bpe", "vocab_size": 300}
    config.write_text(yaml.safe_dump(values))
    assert "changed since it was trained" in refused(capsys, tmp_path / "run")


def test_experts_without_tokens_are_named(made: Path) -> None:
    _, tokenizer = sl.load(made / "run")
    net = model({"n_experts": 4, "top_k": 1, "router": {"kind": "top_k", "bias": True}})
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("router.weight"):
                parameter.zero_()
            if name.endswith("router.bias"):
                parameter.copy_(torch.tensor([0.0, 5.0, 0.0, 0.0]))
    told = notes_on(measure_routing(net, tokenizer, [reading("a", torch.arange(V).view(2, 16))]))
    assert told[:2] == [f"layer {number}: experts 0, 2, 3 get no token at all." for number in (0, 1)]
    assert "expert 1 has 4 times its part" in told[2]
    assert told[-1].startswith("by vocabulary, no layer is above its shuffled baseline")
