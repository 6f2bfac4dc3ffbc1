"""Shares of a step side by side: the same results in the same order, whatever the threads do."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sublayer.api import train
from sublayer.data import prepare
from sublayer.errors import ConfigError, RunError
from sublayer.run import read_config
from sublayer.training.crew import Crew, choose_threads
from sublayer.training.loop import shares


def test_results_come_in_the_order_of_the_items_and_from_several_threads() -> None:
    def slow_first(number: int) -> tuple[int, int]:
        time.sleep(0.05 if number == 0 else 0)
        return number, threading.get_ident()

    with Crew(3) as crew:
        results = list(crew.map(slow_first, range(9)))
    assert [number for number, _ in results] == list(range(9))
    assert len({thread for _, thread in results} - {threading.get_ident()}) > 1


def test_what_draws_random_numbers_is_worked_on_one_after_the_other() -> None:
    threads = []

    def draw(_: int) -> float:
        threads.append(threading.get_ident())
        return float(torch.rand(()))

    torch.manual_seed(3)
    with Crew(2) as crew:
        drawn = [list(crew.map_training(draw, range(4))) for _ in range(3)]
    torch.manual_seed(3)
    assert drawn == [[float(torch.rand(())) for _ in range(4)] for _ in range(3)]
    assert set(threads) == {threading.get_ident()}


def test_drawing_only_later_is_refused() -> None:
    with Crew(2) as crew:
        list(crew.map_training(lambda number: number, range(2)))
        with pytest.raises(RunError, match=r"training\.threads: 1"):
            list(crew.map_training(lambda _: float(torch.rand(())), range(2)))


def test_threads_of_torch_are_divided_and_given_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with Crew(2) as crew:
            assert torch.get_num_threads() == 2
            assert set(crew.map(lambda _: torch.get_num_threads(), range(4))) == {2}
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_an_error_in_a_thread_is_raised() -> None:
    def fail(number: int) -> int:
        raise KeyError(number)

    with Crew(2) as crew:
        list(crew.map_training(lambda number: number, range(2)))
        with pytest.raises(KeyError):
            list(crew.map_training(fail, range(2)))


def test_how_many_threads() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_threads("auto", 1, cpu, compiled=False) == 1
    assert choose_threads("auto", 8, cuda, compiled=False) == 1
    assert choose_threads("auto", 8, cpu, compiled=True) == 1
    assert choose_threads(3, 8, cpu, compiled=False) == 3


@pytest.mark.parametrize(("threads", "sizes"), [(1, [4, 4]), (3, [2, 1, 1, 2, 1, 1]), (9, [1] * 8)])
def test_shares_are_the_samples_of_the_step_in_order(tmp_path: Path, threads: int, sizes: list[int]) -> None:
    (tmp_path / "a.txt").write_text("".join(f"line {number} of a small text\n" for number in range(200)))
    config = read_config(
        {
            "data": {
                "sources": {"kind": "text", "path": str(tmp_path / "a.txt")},
                "tokenizer": "bytes",
                "sequence_length": 16,
            },
            "training": {"batch_size": 8, "accumulation": 2},
        }
    )
    corpus = prepare(config.data, cache=tmp_path / "cache")
    parts = shares(corpus, config.training, 3, threads)
    assert [len(part.tokens_BT) for part in parts] == sizes
    whole = corpus.batch(config.training.seed, 3 * 8, 8).tokens_BT
    assert torch.equal(torch.cat([part.tokens_BT for part in parts]), whole)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_training_in_threads_repeats_bit_for_bit(tmp_path: Path, dropout: float) -> None:
    (tmp_path / "a.txt").write_text("".join(f"line {number} of a small text\n" for number in range(200)))
    config: dict[str, Any] = {
        "dtype": "bfloat16",
        "model": {"d_model": 16, "n_layers": 2, "max_length": 32, "attention": {"n_heads": 2}, "dropout": dropout},
        "data": {"sources": {"kind": "text", "path": str(tmp_path / "a.txt")}, "tokenizer": "bytes"},
        "training": {"steps": 6, "batch_size": 8, "threads": 3, "optimizer": "muon", "baselines": False},
    }
    config["data"]["sequence_length"] = 32
    for name in ("first", "second"):
        train(config, out=tmp_path / name)
    for file in ("model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_neither_items_nor_results_pile_up() -> None:
    """Two items a thread are taken ahead of the result that is waited for; in the first step of training, none."""
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield number

    with Crew(2) as crew:
        first = crew.map_training(lambda number: number, items())
        assert next(first) == 0
        assert taken == 1
        list(first)
        taken = 0
        assert next(crew.map(lambda number: number, items())) == 0
        assert taken == 5


def test_several_threads_are_refused_where_one_must_do() -> None:
    for device, compiled in ((torch.device("cuda"), False), (torch.device("cpu"), True)):
        with pytest.raises(
            ConfigError, match=r"training\.threads: is 3, but a model (on cuda|compiled) is trained by one"
        ):
            choose_threads(3, 8, device, compiled=compiled)
