import lzma
import random
import threading
import time
from pathlib import Path

import pytest

from sublayer.data import Corpus, DataConfig, prepare
from sublayer.measures import compression
from sublayer.measures.compression import compressed_size, compression_scores


def noise(seed: int, size: int) -> str:
    return "".join(random.Random(seed).choices("0123456789abcdef", k=size))


def corpus(training: Path, validation: Path) -> Corpus:
    return prepare(
        DataConfig(
            sources={"kind": "text", "path": str(training), "domain": "a"},
            validation={"kind": "text", "path": str(validation), "domain": "a"},
            tokenizer="bytes",
            sequence_length=16,
        )
    )


def test_noise_costs_its_entropy_until_it_was_seen(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(noise(0, 20_000) + noise(1, 20_000))
    (tmp_path / "seen.txt").write_text(noise(1, 10_000))
    (tmp_path / "new.txt").write_text(noise(2, 10_000))
    seen = compression_scores(corpus(tmp_path / "train.txt", tmp_path / "seen.txt"))["a"]
    new = compression_scores(corpus(tmp_path / "train.txt", tmp_path / "new.txt"))["a"]
    assert 4.0 < seen.alone < 4.8
    assert 4.0 < new.alone < 4.8
    assert 4.0 < new.primed < 4.8
    assert 0.0 < seen.primed < 0.1
    assert (seen.held_out_bytes, seen.training_bytes) == (10_000, 40_000)
    assert seen.seconds > 0


def test_windows_hold_the_end_of_the_training_and_the_beginning_of_the_held_out_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.txt").write_text(noise(0, 20_000) + noise(1, 20_000))
    (tmp_path / "held.txt").write_text(noise(1, 20_000) + noise(3, 20_000))
    monkeypatch.setattr(compression, "MOST_TRAINING", 20_000)
    monkeypatch.setattr(compression, "MOST_HELD_OUT", 20_000)
    score = compression_scores(corpus(tmp_path / "train.txt", tmp_path / "held.txt"))["a"]
    assert (score.held_out_bytes, score.training_bytes) == (20_000, 20_000)
    assert score.primed < 0.1


def test_a_domain_without_training_text_is_primed_with_all(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(noise(1, 20_000))
    (tmp_path / "held.txt").write_text(noise(1, 10_000))
    made = prepare(
        DataConfig(
            sources={"kind": "text", "path": str(tmp_path / "train.txt")},
            validation={"kind": "text", "path": str(tmp_path / "held.txt")},
            tokenizer="bytes",
        )
    )
    score = compression_scores(made)["held"]
    assert score.training_bytes == 20_000
    assert score.primed < 0.1


def test_a_window_reaches_over_all_of_the_text() -> None:
    # The same noise twice, further apart than the preset's own window of 8 MB.
    noise = random.Random(0).randbytes(50_000)
    text = noise + bytes(9_000_000) + noise
    assert compressed_size(text) < 60_000
    filters = [{"id": lzma.FILTER_LZMA2, "preset": compression.PRESET}]
    assert len(lzma.compress(text, lzma.FORMAT_RAW, filters=filters)) > 100_000


def test_other_threads_go_on_meanwhile() -> None:
    text = noise(0, 400_000).encode()
    thread = threading.Thread(target=compressed_size, args=(text,))
    started = time.perf_counter()
    compressed_size(text)
    alone = time.perf_counter() - started
    thread.start()
    turns = 0
    while thread.is_alive():
        time.sleep(alone / 50)
        turns += 1
    assert turns > 5
