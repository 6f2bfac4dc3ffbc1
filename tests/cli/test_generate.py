"""`sublayer generate` with the models that go on from no prompt."""

from pathlib import Path

import pytest

from sublayer.api import generate, load
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
        ("encoder", {"stack": "encoder"}, "stack: an encoder does not generate text"),
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
