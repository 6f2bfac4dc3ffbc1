"""The portable model directory: the same model again, or one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sublayer.checkpoint import load_config, load_model, save_model
from sublayer.checkpoint.tensors import DIGEST, read_tensors, write_tensors
from sublayer.data import Tokenizer
from sublayer.data.tokenizer import TOKENIZERS
from sublayer.errors import CheckpointError, DataError
from sublayer.model import ModelConfig, Transformer

CONFIG = {"vocab_size": 257, "d_model": 16, "n_layers": 2, "max_length": 32, "attention": {"n_heads": 2}}
QUERY = "blocks.0.attention.query.weight"


def bytes_tokenizer() -> Tokenizer:
    return TOKENIZERS.parse("bytes").build(lambda: iter(()))


@pytest.fixture
def model() -> Transformer:
    return Transformer(ModelConfig.parse(CONFIG), seed=3).eval()


@pytest.fixture
def directory(model: Transformer, tmp_path: Path) -> Path:
    save_model(tmp_path / "model", model, bytes_tokenizer())
    return tmp_path / "model"


def test_the_files_are_hugging_face_s(directory: Path) -> None:
    assert sorted(path.name for path in directory.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    values = json.loads((directory / "config.json").read_text())
    assert values["model_type"] == "sublayer"
    assert (values["vocab_size"], values["max_position_embeddings"]) == (257, 32)
    assert values["eos_token_id"] == bytes_tokenizer().end_id


@pytest.mark.parametrize(
    "change",
    [{}, {"tied_embeddings": False}, {"position": "sinusoidal"}, {"position": "learned"}, {"residual": "post_norm"}],
)
def test_loaded_gives_the_same_logits_bit_for_bit(change: dict[str, Any], tmp_path: Path) -> None:
    model = Transformer(ModelConfig.parse(CONFIG | change), seed=3).eval()
    save_model(tmp_path / "model", model, bytes_tokenizer())
    loaded, tokenizer = load_model(tmp_path / "model")
    assert loaded.config == model.config
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    tokens = torch.tensor([tokenizer.encode("naïve 東京")])
    assert tokenizer.decode(tokens[0].tolist()) == "naïve 東京"
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)


def test_a_model_in_bfloat16_comes_back_as_one(directory: Path, model: Transformer) -> None:
    save_model(directory, model.bfloat16(), bytes_tokenizer())
    loaded, _ = load_model(directory)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}


def test_tied_weights_stay_tied(directory: Path) -> None:
    loaded, _ = load_model(directory)
    assert loaded.head.output is None
    assert "head.weight" not in load_file(directory / "model.safetensors")


# ---------- what a directory may have gone through


def weights(directory: Path) -> Path:
    return directory / "model.safetensors"


def rewrite(directory: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Tensors changed by someone who takes the digest off."""
    tensors = load_file(weights(directory))
    change(tensors)
    save_file(tensors, weights(directory), metadata={"format": "pt"})


def truncate(directory: Path) -> None:
    with weights(directory).open("r+b") as file:
        file.truncate(weights(directory).stat().st_size // 2)


def flip_in_payload(directory: Path) -> None:
    content = bytearray(weights(directory).read_bytes())
    content[-100] ^= 4
    weights(directory).write_bytes(content)


def flip_in_header(directory: Path) -> None:
    content = bytearray(weights(directory).read_bytes())
    content[20] ^= 1
    weights(directory).write_bytes(content)


def huge_header(directory: Path) -> None:
    weights(directory).write_bytes((2**62).to_bytes(8, "little") + b"{}")


def text_as_weights(directory: Path) -> None:
    weights(directory).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\n")


def no_weights(directory: Path) -> None:
    weights(directory).unlink()


def wrong_shape(directory: Path) -> None:
    rewrite(directory, lambda tensors: tensors.update({QUERY: torch.zeros(16, 8)}))


def extra_tensor(directory: Path) -> None:
    rewrite(directory, lambda tensors: tensors.update({"blocks.7.attention.query.weight": torch.zeros(2)}))


def missing_tensor(directory: Path) -> None:
    rewrite(directory, lambda tensors: tensors.__delitem__(QUERY))


def integers(directory: Path) -> None:
    rewrite(directory, lambda tensors: tensors.update({QUERY: torch.zeros(16, 16, dtype=torch.int8)}))


def config_is(text: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        (directory / "config.json").write_text(text)

    return change


def config_with(**values: Any) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        tree = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(tree | values))

    return change


def model_with(**values: Any) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        tree = json.loads((directory / "config.json").read_text())
        tree["model"] |= values
        (directory / "config.json").write_text(json.dumps(tree))

    return change


def no_config(directory: Path) -> None:
    (directory / "config.json").unlink()


def no_tokenizer(directory: Path) -> None:
    (directory / "tokenizer.json").unlink()


def damaged_tokenizer(directory: Path) -> None:
    text = (directory / "tokenizer.json").read_text()
    (directory / "tokenizer.json").write_text(text[: len(text) // 2])


def damaged_settings(directory: Path) -> None:
    (directory / "tokenizer_config.json").write_text("{")


def other_tokenizer(directory: Path) -> None:
    def text() -> Any:
        return iter(["the cat sat on the mat and that was that " * 20])

    TOKENIZERS.parse({"kind": "bpe", "vocab_size": 270}).build(text).save(directory)


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "weights truncated": (truncate, "model.safetensors is damaged ("),
    "a byte flipped in the payload": (flip_in_payload, "model.safetensors was changed after it was written"),
    "a byte flipped in the header": (flip_in_header, "model.safetensors"),
    "a header of 2⁶² bytes": (huge_header, "model.safetensors is damaged ("),
    "no weights but a pointer to them": (text_as_weights, "model.safetensors is damaged ("),
    "no weights": (no_weights, "there is no file"),
    "another shape": (
        wrong_shape,
        f"model.safetensors: '{QUERY}' has shape [16, 8] where its config asks for [16, 16]",
    ),
    "a tensor too many": (extra_tensor, "model.safetensors holds a tensor 'blocks.7.attention.query.weight' that"),
    "a tensor too few": (missing_tensor, f"model.safetensors lacks the tensor '{QUERY}'"),
    "integers": (integers, f"model.safetensors: '{QUERY}' holds int8 where a model needs floating-point numbers"),
    "no config": (no_config, "holds no config.json"),
    "config no JSON": (config_is('{"model_type": "sub'), "config.json is damaged ("),
    "config empty": (config_is(""), "config.json is damaged ("),
    "config a list": (config_is("[]"), "config.json: model_type is 'list'"),
    "config deeper than anything": (config_is("[" * 50_000), "config.json is damaged ("),
    "another family": (config_with(model_type="llama"), "config.json: model_type is 'llama', and only 'sublayer'"),
    "no model in it": (config_with(model=None), "config.json: a mapping of keys to values was expected, not None"),
    "an illegal value": (model_with(n_layers=0), "config.json: n_layers: must be greater than or equal to 1, not 0"),
    "an unknown key": (model_with(n_leyers=3), "config.json: unknown key 'n_leyers'; did you mean 'n_layers'?"),
    "an unknown part": (model_with(position="mine"), "config.json: position: 'mine' is not a position"),
    "more layers": (model_with(n_layers=3), "model.safetensors lacks the tensor 'blocks.2."),
    "fewer layers": (model_with(n_layers=1), "model.safetensors holds a tensor 'blocks.1."),
    "another width": (model_with(d_model=32), "where its config asks for"),
    "a hostile width": (model_with(d_model=2**24), "where its config asks for"),
    "a width beyond all tensors": (model_with(d_model=2**62), "config.json: no such model can be built"),
    "a width beyond all integers": (model_with(d_model=2**80), "config.json: no such model can be built"),
    "a hostile vocabulary": (model_with(vocab_size=2**45), "where its config asks for"),
    "a hostile depth": (
        model_with(n_layers=2**40),
        "n_layers: must be less than or equal to 10000, not 1099511627776",
    ),
    "no tokenizer": (no_tokenizer, "there is no tokenizer at"),
    "half a tokenizer": (damaged_tokenizer, "tokenizer.json is damaged or no tokenizer"),
    "a damaged tokenizer_config.json": (damaged_settings, "tokenizer_config.json is damaged"),
    "a tokenizer of another model": (other_tokenizer, "the tokenizer has 270 tokens, but the model only 257"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_sentence_that_names_the_file(name: str, directory: Path) -> None:
    damage, message = DAMAGE[name]
    damage(directory)
    with pytest.raises((CheckpointError, DataError)) as raised:
        load_model(directory)
    assert message in str(raised.value)
    assert str(directory) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2


def test_a_hostile_config_allocates_nothing(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors are made on the meta device only, until the file is known to hold them."""
    model_with(d_model=2**20, n_layers=100, vocab_size=2**20)(directory)
    with pytest.raises(CheckpointError, match="where its config asks for"):
        load_model(directory)
    # Were they made for real, this would need 100 · 12 · 2⁴⁰ numbers; so it is enough that the call came back.


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no directory .*/nowhere; name one"):
        load_config(tmp_path / "nowhere")


def test_weights_without_a_digest_are_read(directory: Path, model: Transformer) -> None:
    """As another program would write them."""
    rewrite(directory, lambda tensors: None)
    loaded, _ = load_model(directory)
    assert torch.equal(loaded.embedding.weight, model.embedding.weight)


def test_a_copy_is_as_good(directory: Path, tmp_path: Path) -> None:
    shutil.copytree(directory, tmp_path / "elsewhere")
    load_model(tmp_path / "elsewhere")


# ---------- tensors


def test_the_digest_knows_names_types_shapes_and_values(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    tensors = {"a": torch.arange(6.0), "b": torch.zeros(2, dtype=torch.int32)}
    write_tensors(path, tensors)
    changes = [
        {"a": tensors["b"], "b": tensors["a"]},
        tensors | {"b": torch.zeros(2, dtype=torch.float32)},
        tensors | {"a": tensors["a"].reshape(2, 3)},
        tensors | {"a": tensors["a"].flip(0)},
        tensors | {"c": torch.zeros(0)},
    ]
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        written = file.metadata()[DIGEST]
    assert read_tensors(path).keys() == tensors.keys()
    for change in changes:
        save_file(change, path, metadata={DIGEST: written})
        with pytest.raises(CheckpointError, match="was changed after it was written"):
            read_tensors(path)


def test_the_same_tensors_are_the_same_file(tmp_path: Path) -> None:
    tensors = {'naïve\n"': torch.arange(6.0), "b": torch.zeros(2, dtype=torch.int32)}
    for number in range(8):
        write_tensors(tmp_path / f"{number}", tensors)
        assert (tmp_path / f"{number}").read_bytes() == (tmp_path / "0").read_bytes()
    assert read_tensors(tmp_path / "0").keys() == tensors.keys()


def test_tensors_that_share_memory_are_written_apart(tmp_path: Path) -> None:
    weight = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": weight, "b": weight, "c": weight.T, "d": weight[1:]}
    write_tensors(tmp_path / "file.safetensors", tensors)
    read = read_tensors(tmp_path / "file.safetensors")
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
