"""The picture of experts' load over training."""

import json
from pathlib import Path

import pytest

from sublayer.training import heat_map
from sublayer.training.heat_map import draw_heat_map


def metrics(folder: Path, n_layers: int, n_experts: int = 4) -> Path:
    folder.mkdir()
    lines = [{"step": 10, "held_out": {}}]
    for step in (10, 20, 30, 34):
        load = [(step + expert) / (n_experts * step + 6) for expert in range(n_experts)]
        routing = {f"layers.{layer}.feed_forward": {"load": load} for layer in range(n_layers)}
        lines.append({"step": step, "loss": 1.0, "routing": routing} if n_layers else {"step": step, "loss": 1.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_panel_for_each_layer_and_the_same_file_each_time(tmp_path: Path) -> None:
    run = metrics(tmp_path / "run", 2)
    draw_heat_map(run, run / "one.svg")
    draw_heat_map(run, run / "two.svg")
    text = (run / "one.svg").read_text()
    assert text == (run / "two.svg").read_text()
    assert "layers.0.feed_forward" in text
    assert "layers.1.feed_forward" in text
    assert "load (1 is even)" in text


def test_of_many_layers_some_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heat_map, "MOST_PANELS", 4)
    run = metrics(tmp_path / "run", 12)
    draw_heat_map(run, run / "one.svg")
    text = (run / "one.svg").read_text()
    assert text.count(".feed_forward") == 4
    assert "layers.0.feed_forward" in text
    assert "layers.11.feed_forward" in text


def test_nothing_without_experts(tmp_path: Path) -> None:
    run = metrics(tmp_path / "run", 0)
    draw_heat_map(run, run / "one.svg")
    assert not (run / "one.svg").exists()
