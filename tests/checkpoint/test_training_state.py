"""The resumable state: whole or refused, and never a pickle."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sublayer.checkpoint import load_model_state, load_state, save_state, states
from sublayer.errors import CheckpointError, RunError

TENSORS = {
    "model.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "model.half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "optimizer.step": torch.tensor(3.0),
    "rng.cpu": torch.arange(20, dtype=torch.uint8),
    "counts": torch.tensor([1, 2**40]),
}
METADATA = {"progress": {"step": 3, "best_loss": 0.1, "nothing": None}, "config": {"a": [1, 2.5, "x"]}}
PAYLOAD = "model-00001-of-00001.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two states."""
    for step in (2, 3):
        save_state(tmp_path / "states", step, TENSORS, METADATA, keep=2)
    return tmp_path / "states"


def test_what_was_saved_comes_back_bit_for_bit(folder: Path) -> None:
    loaded = load_state(folder)
    assert loaded is not None
    tensors, metadata = loaded
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)
    assert {key: metadata[key] for key in METADATA} == METADATA
    assert metadata["step"] == 3


def test_tensors_that_share_memory_or_are_views_come_back(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    save_state(tmp_path, 1, {"a": whole.T, "b": whole[1:], "c": whole}, {}, keep=1)
    loaded = load_state(tmp_path)
    assert loaded is not None
    assert torch.equal(loaded[0]["a"], whole.T)
    assert torch.equal(loaded[0]["b"], whole[1:])
    assert torch.equal(loaded[0]["c"], whole)


def test_no_state_is_none(tmp_path: Path) -> None:
    assert load_state(tmp_path) is None
    assert load_state(tmp_path / "nothing") is None


def test_only_states_count(folder: Path) -> None:
    (folder / "step-9").mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / ".step-00000009.1.partial").mkdir()
    assert [step for step, _ in states(folder)] == [2, 3]
    assert load_state(folder) is not None
    assert not (folder / ".step-00000009.1.partial").exists()


def test_states_sort_by_number_beyond_eight_digits(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000):
        save_state(tmp_path, step, TENSORS, METADATA, keep=2)
    assert [step for step, _ in states(tmp_path)] == [99_999_999, 100_000_000]


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    for step in range(1, 6):
        save_state(tmp_path, step, TENSORS, METADATA, keep=3)
    assert [step for step, _ in states(tmp_path)] == [3, 4, 5]


def test_nothing_in_it_is_a_pickle(folder: Path) -> None:
    names = sorted(path.name for path in (folder / "step-00000003").iterdir())
    assert names == [PAYLOAD, "model.safetensors.index.json", "state.json"]


def truncated(path: Path) -> None:
    with (path / PAYLOAD).open("r+b") as file:
        file.truncate((path / PAYLOAD).stat().st_size - 7)


def cut_in_the_header(path: Path) -> None:
    with (path / PAYLOAD).open("r+b") as file:
        file.truncate(40)


def flipped(path: Path) -> None:
    content = bytearray((path / PAYLOAD).read_bytes())
    content[-3] ^= 1
    (path / PAYLOAD).write_bytes(content)


def write_json(text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        (path / "state.json").write_text(text)

    write.__name__ = text[:12]
    return write


def other_progress(path: Path) -> None:
    text = (path / "state.json").read_text()
    assert '"best_loss": 0.1' in text
    (path / "state.json").write_text(text.replace('"best_loss": 0.1', '"best_loss": 0.2'))


def without(key: str) -> Callable[[Path], None]:
    def remove(path: Path) -> None:
        values = json.loads((path / "state.json").read_text())
        del values[key]
        (path / "state.json").write_text(json.dumps(values))

    remove.__name__ = f"without_{key}"
    return remove


def no_payload(path: Path) -> None:
    (path / PAYLOAD).unlink()


def empty_payload(path: Path) -> None:
    (path / PAYLOAD).write_bytes(b"")


def no_description(path: Path) -> None:
    (path / "state.json").unlink()


def of_another_step(path: Path) -> None:
    shutil.rmtree(path)
    shutil.copytree(path.with_name("step-00000002"), path)


DAMAGE = [
    truncated,
    cut_in_the_header,
    flipped,
    write_json('{"format": 1, "st'),
    write_json("[]"),
    write_json("3"),
    write_json("{}"),
    write_json("[" * 20_000),
    other_progress,
    without("progress"),
    without("digest"),
    no_payload,
    empty_payload,
    no_description,
    of_another_step,
]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damage_is_one_sentence_with_a_way_out(damage: Callable[[Path], None], folder: Path) -> None:
    damage(folder / "step-00000003")
    with pytest.raises(CheckpointError) as raised:
        load_state(folder)
    message = str(raised.value)
    assert message.startswith(f"the checkpoint {folder / 'step-00000003'} is damaged (")
    assert message.endswith("); delete it to resume from step 2.")
    assert "\n" not in message
    # The way out works.
    shutil.rmtree(folder / "step-00000003")
    assert load_state(folder) is not None
    damage(folder / "step-00000002") if damage is not of_another_step else no_payload(folder / "step-00000002")
    with pytest.raises(CheckpointError, match=r"\); start the run anew\.$"):
        load_state(folder)


def test_another_format_is_refused(folder: Path) -> None:
    path = folder / "step-00000003" / "state.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(CheckpointError, match="has format 2, and this version reads 1"):
        load_state(folder)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_breaks_a_save_comes_out_of_the_library_as_itself(
    error: BaseException, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sublayer.checkpoint import training_state

    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(training_state.HuggingFaceStorageWriter, "write_data", broken)
    expected = RunError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        save_state(folder, 4, TENSORS, METADATA, keep=1)
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000002", "step-00000003"]
    assert load_state(folder) is not None


def test_the_weights_of_any_state(folder: Path) -> None:
    weights = load_model_state(folder / "step-00000002")
    assert weights.keys() == {"weight", "half"}
    assert torch.equal(weights["weight"], TENSORS["model.weight"])
    shutil.copytree(folder / "step-00000003", folder / "step-00000004")
    with pytest.raises(CheckpointError, match=r"is damaged \(it is of step 3\); delete it to leave it out"):
        load_model_state(folder / "step-00000004")
