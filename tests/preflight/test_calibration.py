"""`check --measure`: what is measured, what is extrapolated, and how."""

from typing import Any

import pytest
import torch

import sublayer as sl
from sublayer.preflight import calibration
from sublayer.preflight.calibration import _extended
from tests.preflight.test_check import small

TRAINING = {"training.steps": 10, "training.batch_size": 4}


def measured(**changes: Any) -> calibration.Measured:
    told = sl.check(small(), measure=True, **TRAINING | changes)
    assert told.measured is not None
    return told.measured


def test_a_small_model_is_measured_as_it_is() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    told = measured(**{"training.threads": 2})
    assert (told.training_measured, told.decoding_measured) == ("", "")
    assert told.training_tokens_per_second > 0
    assert told.decoding_tokens_per_second > 0
    assert told.training_seconds == pytest.approx(10 * 4 * 32 / told.training_tokens_per_second)
    flops = sl.check(small()).flops_per_token.training
    assert told.training_utilisation == pytest.approx(
        flops * told.training_tokens_per_second / told.matmul_flops, rel=1e-6
    )
    assert torch.equal(torch.get_rng_state(), before)


def test_without_being_asked_nothing_is_measured() -> None:
    assert sl.check(small()).measured is None


def test_a_step_that_takes_long_is_measured_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "SECONDS", 1e-9)
    told = measured(**{"model.n_layers": 8, "data.sequence_length": 256, "model.max_length": 256})
    assert told.training_measured == "2 of 8 layers, 1 of 4 rows, 128 of 256 tokens a row"
    assert told.training_tokens_per_second > 0


def test_a_model_that_does_not_fit_is_measured_with_fewer_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "free_bytes", lambda device: 1_000_000)
    told = measured(**{"model.n_layers": 8})
    assert told.decoding_measured == "4 of 8 layers"
    assert told.training_measured.startswith("2 of 8 layers")


def test_rows_and_micro_batches_count_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of four micro-batches takes four of their passes and one update."""
    monkeypatch.setattr(calibration, "_step", lambda *a: (2.0, 1.0))
    assert measured(**{"training.accumulation": 4}).training_tokens_per_second == 4 * 32 / (4 * 2.0 + 1.0)
    assert measured().training_tokens_per_second == 4 * 32 / (2.0 + 1.0)


def test_a_model_alone_and_an_encoder() -> None:
    model = {"vocab_size": 50, "d_model": 32, "n_layers": 1, "attention": {"n_heads": 1}}
    alone = sl.check(sl.ModelConfig(**model), measure=True).measured
    assert alone.training_tokens_per_second is None
    assert alone.decoding_tokens_per_second > 0
    encoder = sl.check(sl.ModelConfig(**model, stack="encoder"), measure=True).measured
    assert encoder.decoding_tokens_per_second is None


def test_positions_that_end_early_are_not_overrun() -> None:
    assert measured(**{"model.position": "learned", "model.max_length": 32}).decoding_tokens_per_second > 0


def test_what_two_parts_take_gives_what_the_whole_takes() -> None:
    assert _extended(3.0, 2.0, 100, 20, 10) == 11.0  # a second to start with, and a tenth for each
    assert _extended(2.0, 2.5, 100, 20, 10) == 10.0  # noise: in proportion
    assert _extended(2.0, 2.0, 100, 20, 20) == 10.0


def test_memory_that_is_free() -> None:
    assert 10**7 < calibration.free_bytes(torch.device("cpu")) < 10**14
