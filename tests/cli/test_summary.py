"""Who won, in words that are true."""

import json
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from sublayer.api import Run
from sublayer.cli.experts_table import experts_table
from sublayer.cli.summary import _time, _verdicts
from sublayer.data import DataConfig
from sublayer.measures.baselines import Baseline
from sublayer.measures.compression import Compression
from sublayer.measures.score import Score

BITS = 0.6931471805599453


def run(bits: float, bigram: float, alone: float, primed: float, best_step: int = 9) -> Run:
    """A run of one domain, one token a byte, with these bits a byte."""
    lzma = Compression(alone=alone, primed=primed, held_out_bytes=1, training_bytes=1, seconds=0.0)
    values: dict[str, Any] = {
        "held_out": {"notes": Score(bits * BITS, 1, 1)},
        "baselines": {"notes": Baseline(Score(bigram * BITS, 1, 1), lzma)},
        "best_step": best_step,
        "config": SimpleNamespace(training=SimpleNamespace(steps=9), data=DataConfig()),
        "directory": Path("runs/x"),
    }
    return cast(Run, SimpleNamespace(**values))


@pytest.mark.parametrize(
    ("bits", "sentence"),
    [
        (1.0, "beats the bigram by 2.08 nats a token, lzma alone and lzma after the training text"),
        (2.5, "beats the bigram by 1.04 nats a token and lzma alone and loses to lzma after the training text"),
        (3.5, "beats the bigram by 0.35 nats a token and loses to lzma alone and lzma after the training text"),
        (4.5, "loses to the bigram by 0.35 nats a token, lzma alone and lzma after the training text"),
    ],
)
def test_who_won(bits: float, sentence: str) -> None:
    assert _verdicts(run(bits, bigram=4.0, alone=3.0, primed=2.0)) == [f"notes: the model {sentence}."]


def test_losing_to_the_bigram_and_beating_lzma() -> None:
    told = _verdicts(run(3.3, bigram=2.8, alone=5.4, primed=2.7))
    assert told == [
        "notes: the model beats lzma alone and loses to the bigram by 0.35 nats a token and lzma after the training "
        "text."
    ]


def test_better_weights_before_the_last_are_named() -> None:
    assert _verdicts(run(1.0, 4.0, 3.0, 2.0, best_step=5))[-1] == (
        "The lowest held-out loss was at step 5; those weights are in runs/x/best."
    )


def test_where_the_time_went() -> None:
    run = cast(Run, SimpleNamespace(seconds={"backward": 60.0, "forward": 39.0, "data": 0.9, "saving": 0.1}))
    assert _time(run) == "100 s of training: backward 60%, forward 39%, data 1%."


def test_experts_are_shown_by_layer(tmp_path: Path) -> None:
    layer = {"tokens": 512, "load": [0.5, 0.5, 0.0, 0.0], "max_vio": 1.0, "floor": 0.1, "dead": 2, "entropy_share": 0.4}
    lines = [
        {"step": 10, "routing": {"layers.0.feed_forward": layer | {"max_vio": 3.0}}},
        {"step": 20, "routing": {"layers.0.feed_forward": layer, "layers.1.feed_forward": layer | {"dropped": 0.25}}},
        {"step": 20, "held_out": {}},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = experts_table(tmp_path)
    assert table is not None
    console = Console(width=80, file=StringIO())
    console.print(table)
    shown = [line.split() for line in console.file.getvalue().splitlines()]
    assert "512 tokens" in " ".join(shown[0])
    assert shown[1] == ["layer", "least", "most", "MaxVio", "chance", "entropy", "dead", "dropped"]
    assert shown[2] == ["layers.0.feed_forward", "0.00", "2.00", "1.00", "0.10", "40%", "2", "of", "4"]
    assert shown[3] == ["layers.1.feed_forward", *shown[2][1:], "25.0%"]


def test_no_table_without_experts(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 10, "loss": 1.0}\n')
    assert experts_table(tmp_path) is None
