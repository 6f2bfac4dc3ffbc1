"""`sublayer generate` with beams and with models that go on from no prompt; `sublayer classify` and `sublayer fill`."""

import json
from pathlib import Path

import pytest

from sublayer.api import classify, fill_masks, generate, load
from sublayer.checkpoint import save_model
from sublayer.model import Transformer
from tests.generation.models import PAIR, TOKENIZER, config

from .test_errors import Fails, fails, here
from .test_verbs import run

__all__ = ["fails", "here"]


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """The directory of an encoder-decoder."""
    directory = tmp_path / "pair"
    save_model(directory, Transformer(config(**PAIR), seed=3), TOKENIZER)
    return directory


def test_an_encoder_decoder_shows_its_own_text_alone(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--max-tokens", "9", "--seed", "1", "--dtype", "float32"]
    model, tokenizer = load(pair)
    first, second = generate(model, tokenizer, ["one", "two three"], max_tokens=9, seed=1)
    assert run(capsys, "generate", pair, "one", *asked) == f"{first.text}\n"
    both = run(capsys, "generate", pair, "one", "two three", *asked)
    assert f"\none\n{first.text}\n" in both
    assert f"\ntwo three\n{second.text}\n" in both


def test_a_model_that_writes_no_text_is_refused(tmp_path: Path, fails: Fails) -> None:
    for name, options, message in (
        (
            "encoder",
            {"stack": "encoder"},
            "stack: an encoder goes on from no text, but fills the gaps of one (sublayer fill)",
        ),
        (
            "classes",
            {"head": {"kind": "classes", "n_classes": 2}, "tied_embeddings": True},
            "head: a head over classes",
        ),
    ):
        save_model(tmp_path / name, Transformer(config(**options)), TOKENIZER)
        assert message in fails("generate", tmp_path / name, "a")


def test_beams(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--max-tokens", "5", "--dtype", "float32", "--beams", "4", "--length-penalty", "0.6"]
    model, tokenizer = load(pair)
    best = generate(
        model, tokenizer, "one", max_tokens=5, beams=4, length_penalty=0.6, early_stopping="never", n_best=3
    )
    asked += ["--early-stopping", "never"]
    assert run(capsys, "generate", pair, "one", *asked) == f"{best.text}\n"
    shown = run(capsys, "generate", pair, "one", *asked, "--n-best", "3")
    assert shown == "".join(f"{one.log_probability:.2f} nats\none\n{one.text}\n" for one in (best, *best.others))
    assert f"\none\n{best.text}\n" in run(capsys, "generate", pair, "one", "two", *asked)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--beams", "2", "--seed", "1"], "seed has no effect with beams"),
        (["--length-penalty", "1.5"], "length_penalty has no effect without beams"),
        (["--early-stopping", "soon"], "--early-stopping: must be true, false or never, not 'soon'"),
    ],
)
def test_options_without_effect_are_refused(options: list[str], message: str, pair: Path, fails: Fails) -> None:
    assert message in fails("generate", pair, "one", *options)


def test_a_classifier_names_classes(tmp_path: Path, fails: Fails, capsys: pytest.CaptureFixture[str]) -> None:
    head = {"kind": "classes", "classes": ["code", "prose"]}
    save_model(tmp_path / "run", Transformer(config(stack="encoder", head=head, tied_embeddings=True)), TOKENIZER)
    model, tokenizer = load(tmp_path / "run")
    texts = ["def f(x):", "It was a dark night."]
    expected = classify(model, tokenizer, texts)
    shown = run(capsys, "classify", tmp_path / "run", *texts, "--dtype", "float32")
    for one, line in zip(expected, shown.splitlines()[1:], strict=True):
        assert line.rstrip().split(maxsplit=2) == [one.name, f"{one.probabilities[one.name]:.1%}", one.text]
    told = json.loads(run(capsys, "classify", tmp_path / "run", *texts, "--json", "--dtype", "float32"))
    assert [(row["text"], row["class"]) for row in told] == [(one.text, one.name) for one in expected]
    assert list(told[0]["probabilities"]) == ["code", "prose"]
    pairs = [("def f", "x"), ("It was", "night")]
    expected = classify(model, tokenizer, pairs)
    words = ["def f", "It was", "--second", "x", "--second", "night"]
    shown = run(capsys, "classify", tmp_path / "run", *words, "--dtype", "float32")
    for one, line in zip(expected, shown.splitlines()[1:], strict=True):
        assert line.split() == f"{one} {one.probabilities[one.name]:.1%} {one.text} {one.second}".split()
    told = json.loads(run(capsys, "classify", tmp_path / "run", *words, "--json", "--dtype", "float32"))
    assert [(row["text"], row["second"], row["class"]) for row in told] == [
        (*p, o.name) for p, o in zip(pairs, expected, strict=True)
    ]
    assert "--second: there are 1 for 2 texts; give one for each" in fails(
        "classify", tmp_path / "run", "a", "b", "--second", "c"
    )
    assert "--device: there is no 'gpu'" in fails("classify", tmp_path / "run", "a", "--device", "gpu")
    assert "stack: gaps are filled by an encoder" in fails("fill", tmp_path / "run", "a[MASK]")


def test_an_encoder_fills_gaps(tmp_path: Path, fails: Fails, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = TOKENIZER.with_special(["<mask>"])
    encoder = Transformer(config(stack="encoder", vocab_size=tokenizer.vocab_size))
    save_model(tmp_path / "run", encoder, tokenizer)
    shown = run(capsys, "fill", tmp_path / "run", "a[MASK]b<mask>", "--n-best", "2", "--dtype", "float32").splitlines()
    filled = fill_masks(encoder.eval(), tokenizer, "a[MASK]b<mask>", 2)
    assert "\n".join(shown[:-2]) == filled.text
    assert [line.count(" · ") for line in shown[-2:]] == [1, 1]
    assert f"{filled.gaps[0][0].probability:.1%}" in shown[-2]
    assert "head: a head over tokens tells no classes" in fails("classify", tmp_path / "run", "a")
