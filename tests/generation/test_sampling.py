import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sublayer.errors import ConfigError
from sublayer.generation import GenerationConfig, sampling
from sublayer.generation.sampling import distribution, drawn, next_tokens, penalised, row_seeds

LOGITS = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)) * 3


def softmax(logits: list[float], temperature: float) -> list[float]:
    top = max(logits)
    weights = [math.exp((value - top) / temperature) for value in logits]
    return [weight / sum(weights) for weight in weights]


def oracle(logits: list[float], config: GenerationConfig) -> dict[int, float]:
    """The tokens kept and their probabilities, from the papers' definitions, each filter on its own."""
    probs = softmax(logits, config.temperature)
    ranking = sorted(range(len(probs)), key=lambda token: (-probs[token], token))
    kept = set(ranking)
    if config.top_k is not None:
        kept &= set(ranking[: config.top_k])
    if config.top_p is not None:
        nucleus: list[int] = []
        while len(nucleus) < len(ranking) and sum(probs[token] for token in nucleus) < config.top_p:
            nucleus.append(ranking[len(nucleus)])
        kept &= set(nucleus)
    if config.min_p is not None:
        kept &= {token for token in ranking if probs[token] >= config.min_p * max(probs)}
    total = sum(probs[token] for token in kept)
    return {token: probs[token] / total for token in kept}


FILTERS = [
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 1000},
    {"top_p": 0.05},
    {"top_p": 0.6},
    {"top_p": 0.95},
    {"min_p": 0.02},
    {"min_p": 0.3},
    {"min_p": 1.0},
    {"top_k": 5, "top_p": 0.8},
    {"top_k": 20, "top_p": 0.9, "min_p": 0.05},
    {},
]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("options", FILTERS, ids=str)
def test_exactly_the_oracles_tokens_are_kept_in_its_proportions(options: dict[str, float], temperature: float) -> None:
    config = GenerationConfig(temperature=temperature, **options)
    found = distribution(LOGITS, config)
    for row, logits in enumerate(LOGITS.tolist()):
        expected = oracle(logits, config)
        assert set(found[row].nonzero()[:, 0].tolist()) == set(expected)
        for token, probability in expected.items():
            assert found[row, token].item() == pytest.approx(probability, rel=1e-4)


@given(
    logits=st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=12),
    top_k=st.none() | st.integers(1, 15),
    top_p=st.none() | st.floats(0.01, 1),
    min_p=st.none() | st.floats(0, 1),
)
@settings(max_examples=150, deadline=None)
def test_something_is_always_kept_and_sums_to_one(
    logits: list[float], top_k: int | None, top_p: float | None, min_p: float | None
) -> None:
    config = GenerationConfig(temperature=0.7, top_k=top_k, top_p=top_p, min_p=min_p)
    found = distribution(torch.tensor([logits]), config)[0]
    assert found.sum().item() == pytest.approx(1, abs=1e-5)
    assert found[int(torch.tensor(logits).argmax())] == found.max() > 0
    assert int((found > 0).sum()) <= (top_k or len(logits))


def test_of_equally_probable_tokens_the_lower_ids_are_kept() -> None:
    even = torch.zeros(1, 8)
    assert distribution(even, GenerationConfig(temperature=1.0, top_k=3)).nonzero()[:, 1].tolist() == [0, 1, 2]
    # The mass of two is exactly a quarter: the smallest set that holds it, and no token more.
    assert distribution(even, GenerationConfig(temperature=1.0, top_p=0.25)).nonzero()[:, 1].tolist() == [0, 1]
    # Equal to the share of the most probable one is enough.
    assert distribution(even, GenerationConfig(temperature=1.0, min_p=1.0)).count_nonzero() == 8


def test_the_whole_mass_is_no_cut() -> None:
    # In float32 the first already rounds to 1, and a sum that stops there would lose the rest.
    logits = torch.tensor([[0.0, -25.0, -40.0]])
    assert distribution(logits, GenerationConfig(temperature=1.0, top_p=1.0)).count_nonzero() == 3


def test_the_mass_is_that_after_the_temperature() -> None:
    logits = torch.tensor([[0.6, 0.3, 0.1]]).log()
    assert distribution(logits, GenerationConfig(temperature=1.0, top_p=0.65)).count_nonzero() == 2
    assert distribution(logits, GenerationConfig(temperature=0.5, top_p=0.65)).count_nonzero() == 1


def test_penalty_against_a_loop() -> None:
    seen = torch.rand(LOGITS.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    found = penalised(LOGITS, seen, 1.7)
    for row in range(LOGITS.shape[0]):
        for token in range(LOGITS.shape[1]):
            logit = LOGITS[row, token].item()
            if seen[row, token]:
                logit = logit / 1.7 if logit > 0 else logit * 1.7
            assert found[row, token].item() == pytest.approx(logit, rel=1e-6)


def test_the_penalty_comes_before_the_temperature_and_the_cuts() -> None:
    # The first is less probable only after the penalty, so top-k must see it penalised.
    logits, seen = torch.tensor([[2.0, 1.5, 1.0]]), torch.tensor([[True, False, False]])
    config = GenerationConfig(temperature=1.0, top_k=1, repetition_penalty=2.0)
    assert next_tokens(logits, config, [0.0], seen).tolist() == [1]
    assert next_tokens(logits, config, [0.0]).tolist() == [0]
    assert next_tokens(logits, GenerationConfig(temperature=0, repetition_penalty=2.0), [0.0], seen).tolist() == [1]


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 5e-324])
def test_temperature_towards_zero_is_greedy(temperature: float) -> None:
    uniforms = [0.0, 0.3, 0.7, 1 - 2**-53]
    greedy = next_tokens(LOGITS, GenerationConfig(temperature=0), uniforms)
    assert greedy.tolist() == [row.index(max(row)) for row in LOGITS.tolist()]
    assert next_tokens(LOGITS, GenerationConfig(temperature=temperature), uniforms).equal(greedy)


def test_top_k_one_is_greedy() -> None:
    greedy = next_tokens(LOGITS, GenerationConfig(temperature=0), [0.9] * 4)
    for uniform in (0.0, 0.5, 0.999):
        assert next_tokens(LOGITS, GenerationConfig(temperature=3.0, top_k=1), [uniform] * 4).equal(greedy)
    # Also where the probabilities round to the same number.
    near = torch.tensor([[0.0, 1e-30, 0.0]])
    assert next_tokens(near, GenerationConfig(temperature=1.0, top_k=1), [0.0]).tolist() == [1]


def test_half_precision_logits_are_drawn_from_in_float32() -> None:
    logits = LOGITS[:1].bfloat16().expand(500, -1)
    config = GenerationConfig(temperature=1.7, top_p=0.9)
    uniforms = [n / 500 for n in range(500)]
    assert next_tokens(logits, config, uniforms).equal(next_tokens(logits.float(), config, uniforms))


@pytest.mark.parametrize("probs", [[0.1, 0.0, 0.6, 0.3], [0.0, 1.0, 0.0, 0.0], [0.0, 0.25, 0.25, 0.5]])
def test_a_draw_is_the_token_whose_share_holds_the_number(probs: list[float]) -> None:
    draws = random.Random(0)
    for uniform in [0.0, 0.1, 0.25, 0.5, 0.7, 1 - 2**-53, *(draws.random() for _ in range(200))]:
        token = int(drawn(torch.tensor([probs], dtype=torch.float64), [uniform]))
        assert sum(probs[:token]) <= uniform + 1e-12
        assert uniform < sum(probs[: token + 1]) + 1e-12
        assert probs[token] > 0


def test_a_number_that_rounds_to_one_takes_no_token_of_probability_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_wide", lambda values: torch.float32)  # as on Apple's GPUs
    assert drawn(torch.tensor([[0.5, 0.5, 0.0]]), [1 - 2**-53]).tolist() == [1]


def test_frequencies_are_the_distributions() -> None:
    config = GenerationConfig(temperature=1.3, top_k=8)
    draws = 40_000
    uniforms = torch.rand(draws, generator=torch.Generator().manual_seed(5), dtype=torch.float64).tolist()
    tokens = next_tokens(LOGITS[:1].expand(draws, -1), config, uniforms)
    found = torch.bincount(tokens, minlength=LOGITS.shape[1]) / draws
    expected = distribution(LOGITS[:1], config)[0]
    # Five standard deviations of a frequency, of which the largest is √(¼ / draws).
    assert (found - expected).abs().max() < 5 * (0.25 / draws) ** 0.5
    assert found[expected == 0].sum() == 0
    assert int((expected > 0.01).sum()) > 3  # so the test looks at more than one token


def test_row_seeds() -> None:
    seeds = row_seeds(7, 100)
    assert seeds[0] == 7
    assert len(set(seeds)) == 100
    assert row_seeds(7, 3) == seeds[:3]  # a larger batch changes no row
    assert not set(row_seeds(8, 100)) & set(seeds)  # nor do batches of neighbouring seeds share draws
    assert row_seeds(7, 0) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_tokens": 0}, "max_tokens: "),
        ({"temperature": -1.0}, "temperature: "),
        ({"temperature": math.nan}, "temperature: "),
        ({"top_k": 0}, "top_k: "),
        ({"top_p": 0.0}, "top_p: "),
        ({"top_p": 1.5}, "top_p: "),
        ({"min_p": -0.1}, "min_p: "),
        ({"repetition_penalty": 0}, "repetition_penalty: "),
        ({"stop": ["a", ""]}, r"stop\[1\]: "),
        ({"seed": -1}, "seed: "),
        ({"temprature": 1}, "did you mean 'temperature'"),
    ],
)
def test_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        GenerationConfig(**options)
    assert "\n" not in str(caught.value)


def test_one_stop_string_needs_no_list() -> None:
    assert GenerationConfig(stop="\n\n").stop == ("\n\n",)
    assert GenerationConfig(stop=["a", "b"]).stop == ("a", "b")


def test_nothing_given_is_changed() -> None:
    logits: Tensor = LOGITS.clone()
    seen = torch.ones_like(LOGITS, dtype=torch.bool)
    next_tokens(logits, GenerationConfig(top_k=3, repetition_penalty=1.5), [0.5] * 4, seen)
    assert logits.equal(LOGITS)
