"""The shipped configs: the papers' models in size, and smaller ones that train."""

import json
from pathlib import Path

import pytest

import sublayer as sl
from sublayer.cli import main
from sublayer.run import presets, read_preset

PAPERS = {
    "gpt2": 124_439_808,
    "llama": 8_030_261_248,
    "mistral": 7_241_732_096,
    "mixtral": 46_702_792_704,
    "olmoe": 6_919_161_856,
    "bloom": 559_214_592,
    "t5-small": 60_506_624,
    "bert-base": 109_514_298,  # with the head that predicts masked tokens
    # Shared embeddings, six layers with one attention and six with two, biases in feed-forwards only.
    "transformer-base": 37000 * 512
    + 6 * (4 * 512**2 + 2 * 512 * 2048 + 2048 + 512 + 2 * 2 * 512)
    + 6 * (8 * 512**2 + 2 * 512 * 2048 + 2048 + 512 + 3 * 2 * 512),
}
"""Parameters of the models that their authors published."""

MINIS = [name for name in presets() if name == "default" or name.endswith("-mini")]


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_legal_and_checked(name: str) -> None:
    told = sl.check(read_preset(name), device="cpu")
    assert told.memory.training is not None
    assert told.memory.training.peak > 4 * told.parameters.total
    if name in PAPERS:
        assert told.parameters.total == PAPERS[name]


def test_there_is_a_small_one_for_each() -> None:
    assert {name.removesuffix("-mini") for name in MINIS} >= {
        "gpt2",
        "llama",
        "bloom",
        "mistral",
        "mixtral",
        "transformer",
    }
    for name in MINIS:
        assert sl.check(read_preset(name)).parameters.active < 1.4e6


def test_of_all_experts_few_are_active() -> None:
    told = sl.check(read_preset("mixtral"))
    assert told.parameters.active == 12_879_925_248
    # Six of eight experts of three matrices in each of 32 layers are left out, forward and backward.
    idle = 6 * 32 * 3 * (2 * 3 * 4096 * 14336)
    assert told.flops_per_token.training_all_experts == told.flops_per_token.training + idle


@pytest.mark.parametrize("name", ["llama-mini", "mistral-mini", "mixtral-mini"])
def test_a_small_one_has_the_parts_of_the_large(name: str) -> None:
    large, small = (sl.check(read_preset(each)).layers[0] for each in (name.removesuffix("-mini"), name))
    for field in ("position", "feed_forward", "residual", "norm"):
        assert getattr(large, field)["kind"] == getattr(small, field)["kind"]
    assert large.attention["pattern"]["kind"] == small.attention["pattern"]["kind"]
    assert small.attention["n_kv_heads"] < small.attention["n_heads"]


@pytest.mark.slow
@pytest.mark.parametrize("name", MINIS)
def test_it_trains(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBLAYER_CACHE", str(tmp_path / "cache"))
    words = "the house has rooms and floors and a room reads from lower floors alone ".split()
    (tmp_path / "text.md").write_text("\n".join(" ".join(words[n % 13 :] + words) for n in range(4000)))
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as left:
        main(
            [
                *("train", "--preset", name, "--out", str(out), "training.steps=30", "training.baselines=false"),
                *(f"data.sources=[{{kind: text, path: {tmp_path / 'text.md'}}}]", "training.logging.every=1"),
            ]
        )
    assert left.value.code in (0, None)
    lines = (out / "metrics.jsonl").read_text().splitlines()
    losses = [line["loss"] for line in map(json.loads, lines) if "loss" in line]
    assert losses[-1] < 0.7 * losses[0]
