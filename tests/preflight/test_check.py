"""`sl.check`: what it tells, beside the model that would be built."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import sublayer as sl
from sublayer.errors import ConfigError
from sublayer.model import ModelConfig
from sublayer.model.attention.memory import KeyValueMemory
from sublayer.run import read_preset


def small(**changes: object) -> dict[str, object]:
    model = {"d_model": 32, "n_layers": 3, "max_length": 64, "attention": {"n_heads": 2}, "vocab_size": 300}
    data = {"tokenizer": "bytes", "sequence_length": 32, "sources": [{"kind": "text", "path": "nowhere/"}]}
    return {"device": "cpu", "dtype": "float32", "model": model | changes, "data": data}


def test_what_it_tells_is_what_is_built() -> None:
    told = sl.check(small(layers=[{}, {"attention": {"pattern": {"kind": "window", "size": 8}}}, {}]))
    config = sl.RunConfig.parse(small(layers=[{}, {"attention": {"pattern": {"kind": "window", "size": 8}}}, {}]))
    model = sl.Transformer(config.model)
    assert told.parameters.total == model.n_parameters()
    assert told.parameters.non_embedding == model.n_parameters(embeddings=False)
    assert told.parameters.active == told.parameters.total
    for length, n_bytes in told.memory.decoding.items():
        held = model.init_state(1, length).n_bytes
        assert n_bytes == held + sum(parameter.nbytes for parameter in model.parameters())
    assert list(told.memory.decoding) == list(told.flops_per_token.decoding_by_length) == [16, 32, 64]
    assert told.flops_per_token.decoding == told.flops_per_token.decoding_by_length[64]
    assert told.flops_per_token.training_visible < told.flops_per_token.training
    assert told.exports == ()


def test_equal_layers_stand_together() -> None:
    told = sl.check(small(layers=[{}, {"attention": {"pattern": {"kind": "window", "size": 8}}}, {}]))
    full, window = told.layers
    assert (full.layers, window.layers) == ((0, 2), (1,))
    assert full.attention["n_heads"] == window.attention["n_heads"] == 2  # complete, with what was left out
    assert full.feed_forward["d_ff"] == 96
    assert full.keeps.tokens is None
    assert window.keeps.tokens == 8
    assert full.keeps.bytes_per_token == window.keeps.bytes_per_token == 2 * 32 * 4
    assert window.decoding_flops < full.decoding_flops
    assert full.training_flops == window.training_flops
    assert sum(len(layer.layers) * layer.parameters for layer in told.layers) + 32 == told.parameters.non_embedding


def test_what_a_layer_keeps_is_what_its_memory_holds() -> None:
    told = sl.check(small(attention={"n_heads": 2, "n_kv_heads": 1, "pattern": {"kind": "window", "size": 8}}))
    state = sl.Transformer(sl.RunConfig.parse(small()).model).init_state(1, 64)
    memory = next(memory for memory in state.layers[0] if isinstance(memory, KeyValueMemory))
    keeps = told.layers[0].keeps
    assert keeps.bytes == (8 + 1) * keeps.bytes_per_token  # a ring, and a slot that is written to and never read
    assert memory.n_bytes == (64 + 1) * 2 * keeps.bytes_per_token


def test_kernels_and_why() -> None:
    told = sl.check(small() | {"dtype": "bfloat16"})
    layer = told.layers[0]
    assert layer.training_kernel.kernel == "dense"
    assert layer.decoding_kernel.kernel == "sdpa"
    assert "passed over" in layer.decoding_kernel.why
    named = sl.check(small(attention={"n_heads": 2, "kernel": "reference"})).layers[0]
    assert named.training_kernel.kernel == named.decoding_kernel.kernel == "reference"
    assert named.training_kernel.why == "named in the config"


def test_the_size_of_the_vocabulary_is_said_to_be_taken_from_the_tokenizer() -> None:
    assert sl.check(small()).vocabulary_from == ""
    assert sl.check(small()).vocab_size == 300
    told = sl.check(small(vocab_size=None))
    assert (told.vocab_size, told.vocabulary_from) == (257, "from the bytes tokenizer's config")


def test_a_model_alone_has_no_training() -> None:
    told = sl.check(ModelConfig(vocab_size=50, d_model=32, n_layers=1, attention={"n_heads": 1}))
    assert told.memory.training is None
    assert told.layers[0].training_kernel is None
    assert told.flops_per_token.training_length == 1024
    with pytest.raises(ConfigError, match="vocab_size: is required"):
        sl.check(ModelConfig(d_model=32))


def test_an_encoder_does_not_decode() -> None:
    told = sl.check(ModelConfig(stack="encoder", vocab_size=50, d_model=32, attention={"n_heads": 1}))
    assert told.flops_per_token.decoding is None
    assert told.memory.decoding == {}
    assert told.layers[0].keeps is None
    assert told.layers[0].decoding_kernel is None


def test_lengths_double_up_to_the_model_s_own() -> None:
    assert list(sl.check(small(max_length=5000)).memory.decoding) == [1024, 2048, 4096, 5000]


def test_a_large_model_is_checked_without_its_memory() -> None:
    tree = small(d_model=4096, n_layers=32, max_length=4096, vocab_size=128_256, attention={"n_heads": 32})
    tree["data"]["sequence_length"] = 4096
    told = sl.check(tree, **{"training.batch_size": 64, "training.threads": 1})
    assert told.parameters.total > 6e9
    assert told.memory.training.peak > 6e9 * 16


def test_it_is_json() -> None:
    tree = json.loads(json.dumps(sl.check(small()).tree()))
    assert set(tree) >= {"parameters", "flops_per_token", "layers", "memory", "exports"}
    assert set(tree["parameters"]) == {"total", "non_embedding", "active"}
    assert {"training", "decoding"} <= set(tree["flops_per_token"])
    assert tree["exports"] == []


def test_the_default_reads_no_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SUBLAYER_CACHE", str(tmp_path / "nothing"))
    assert sl.check() == sl.check(read_preset("default"))
    assert not (tmp_path / "nothing").exists()


def test_torch_s_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    sl.check(small(dropout=0.1))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_words_of_a_wrong_config_are_its_own() -> None:
    with pytest.raises(ConfigError, match="n_heads \\(5\\) does not divide d_model"):
        sl.check(small(attention={"n_heads": 5}))


def test_a_part_that_looks_at_numbers_is_checked_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from sublayer.model.feed_forward.gated import Gated

    forward = Gated.forward

    def looking(self: Gated, x: torch.Tensor, *rest: Any) -> Any:
        return forward(self, x if bool(x.sum() > 0) else -x, *rest)

    monkeypatch.setattr(Gated, "forward", looking)
    told = sl.check(small())
    assert told.memory.training is None
    assert "looks at numbers" in told.memory.unknown
    assert told.parameters.total > 0


def test_an_encoder_beside_the_decoder_is_told_of() -> None:
    config = ModelConfig(
        stack="encoder_decoder",
        vocab_size=100,
        d_model=32,
        n_layers=2,
        max_length=64,
        attention={"n_heads": 2, "n_kv_heads": 1},
        encoder={"n_layers": 3, "attention": {"n_kv_heads": 2}},
        layers=[{}, {"attention": {"pattern": {"kind": "window", "size": 8}}}],
    )
    told = sl.check(config)
    assert [layer.layers for layer in told.encoder_layers] == [(0, 1, 2)]
    assert [layer.layers for layer in told.layers] == [(0,), (1,)]
    assert told.encoder_layers[0].keeps is None
    assert told.encoder_layers[0].cross_attention is None
    assert told.layers[0].cross_attention["n_kv_heads"] == 1
    assert told.flops_per_token.source_length == 64
    kept = {memory.sublayer: memory for memory in told.layers[1].keeps.memories}
    n_bytes = 2 * 16 * torch.empty((), dtype=getattr(torch, told.dtype)).itemsize
    assert (kept["attention"].tokens, kept["attention"].bytes_per_token) == (8, n_bytes)
    assert (kept["cross_attention"].tokens, kept["cross_attention"].bytes_per_source_token) == (0, n_bytes)
    # What is told of each layer joins to what is told of all.
    model = sl.Transformer(config)
    state = model.init_state(1, 64, dtype=getattr(torch, told.dtype))
    model(torch.zeros(1, 1).long(), source=torch.zeros(1, 64).long(), state=state)
    assert told.memory.decoding[64] - told.memory.weights == state.n_bytes
    of_layers = sum(len(layer.layers) * layer.keeps.bytes for layer in told.layers)
    counts = state.n_bytes - sum(memory.n_bytes for layer in state.layers for memory in layer if memory is not None)
    assert of_layers + counts == state.n_bytes
    # FLOPs of a row, source and all, equal those of its layers and the output matrix.
    layers = sum(len(layer.layers) * layer.training_flops for layer in told.layers)
    layers += sum(len(layer.layers) * layer.training_flops for layer in told.encoder_layers)
    assert told.flops_per_token.training == pytest.approx(layers + 3 * 2 * 100 * 32)
