"""Packed matrices: what they refuse, what they hold, and which layers they are for."""

import copy
import gc
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from sublayer.checkpoint import load_model, save_model
from sublayer.data.tokenizer import BytesConfig
from sublayer.model import ModelConfig, Transformer
from sublayer.model.experts.packed import PackedBank
from sublayer.model.packed import LARGE, PackedMatrix, pack, packable, unpack


def model(**values: object) -> Transformer:
    return Transformer(
        ModelConfig.parse({"vocab_size": 300, "d_model": 64, "n_layers": 2, "attention": {"n_heads": 4}} | values)
    )


def test_a_packed_model_computes_no_loss_and_stays_where_it_is() -> None:
    packed = model().pack()
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="a packed model computes no loss"):
        packed(tokens, targets=tokens)
    with pytest.raises(ValueError, match="stays on the CPU and in its dtype"):
        packed.to(torch.bfloat16)
    assert packed.unpack()(tokens, targets=tokens).loss is not None


def test_projections_of_the_same_input_are_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    product = PackedMatrix._product
    monkeypatch.setattr(PackedMatrix, "_product", lambda self, x: calls.append(self.sizes) or product(self, x))
    model(n_layers=1, tied_embeddings=False, attention={"n_heads": 4, "n_kv_heads": 2}).pack()(torch.zeros(1, 1).long())
    assert calls == [[64, 32, 32], [64], [192, 192], [64], [300]]


def test_weights_are_held_once() -> None:
    linear = nn.Linear(512, 1024, bias=False)
    kept = linear.weight.detach().clone()
    parent = nn.Sequential(linear)
    pack(parent)
    gc.collect()
    assert linear.weight.numel() == 0
    unpack(parent)
    assert parent[0] is linear
    assert torch.equal(linear.weight, kept)


@pytest.mark.parametrize("rows", [1, 2, 3, 9])
@pytest.mark.parametrize("bias", [False, True])
def test_a_large_matrix_with_few_rows(rows: int, bias: bool) -> None:
    linear = nn.Linear(64, LARGE // 64, bias=bias)
    x = torch.randn(rows, 1, 64)
    with torch.no_grad():
        expected = linear(x)
        torch.testing.assert_close(PackedMatrix([linear.weight], [linear.bias])(x), expected, rtol=1e-4, atol=1e-5)


def test_only_what_gains_is_packed() -> None:
    class Own(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 1

    assert packable(nn.Linear(4, 4))
    assert not packable(Own(4, 4))
    assert not packable(nn.Linear(4, 4, dtype=torch.float64))
    assert not packable(nn.Linear(4, 4, device="meta"))
    assert not packable(nn.LayerNorm(4))


def test_a_packed_model_can_be_saved(tmp_path: Path) -> None:
    tokenizer = BytesConfig().build(lambda: iter(()))
    original = model(vocab_size=tokenizer.vocab_size)
    before = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    save_model(tmp_path / "m", original.pack(), tokenizer)
    loaded, _ = load_model(tmp_path / "m")
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.state_dict().items())


def test_a_packed_model_takes_no_other_weights() -> None:
    packed, other = model().pack(), Transformer(model().config, seed=5)
    before = packed(torch.zeros(1, 4).long()).logits
    with pytest.raises(ValueError, match=r"takes no other weights; call unpack\(\) first"):
        packed.load_state_dict(other.state_dict(), strict=False)
    assert torch.equal(packed(torch.zeros(1, 4).long()).logits, before)


@pytest.mark.parametrize("twice", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
@pytest.mark.parametrize("feed_forward", ["swiglu", {"kind": "experts", "n_experts": 4}], ids=["dense", "experts"])
def test_a_packed_model_can_be_copied(twice: Callable[[Transformer], Transformer], feed_forward: object) -> None:
    packed, tokens = model(feed_forward=feed_forward).pack(), torch.arange(6)[None]
    again = twice(packed)
    assert torch.equal(again(tokens).logits, packed(tokens).logits)
    for ours, theirs in zip(again.unpack().parameters(), packed.unpack().parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.data_ptr() != theirs.data_ptr()


def test_what_was_unpacked_without_gradients_can_be_trained() -> None:
    net, tokens = model(), torch.zeros(1, 4, dtype=torch.int64)
    with torch.inference_mode():
        net.pack()
        net(tokens)
        net.unpack()
    net(tokens, targets=tokens).loss.backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


EXPERTS = {
    "gated": {"kind": "experts", "n_experts": 4, "expert": {"kind": "gated", "d_ff": 48}},
    "biased": {"kind": "experts", "n_experts": 4, "expert": {"kind": "dense", "d_ff": 40, "bias": True}},
    "shared": {
        "kind": "experts",
        "n_experts": 4,
        "top_k": 3,
        "expert": {"kind": "gated", "d_ff": 32, "bias": True},
        "shared": {},
    },
}


@pytest.mark.parametrize("kind", EXPERTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_experts_are_the_same_and_come_back_as_they_were(dtype: torch.dtype, kind: str) -> None:
    net = model(feed_forward=EXPERTS[kind]).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("_bias"):
                parameter.normal_()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    parameters, n_parameters = list(net.parameters()), net.n_parameters()
    for tokens in (torch.arange(1)[None], torch.arange(40)[None] % 7):
        expected = net(tokens).logits
        actual = net.pack()(tokens).logits
        tolerance = 1e-5 if dtype == torch.float32 else 5e-2
        torch.testing.assert_close(actual, expected, rtol=0.0, atol=tolerance * expected.abs().max().item())
        assert isinstance(net.blocks[0].feed_forward.experts, PackedBank)
        assert net.n_parameters() == n_parameters
        packed = net.state_dict()
        assert list(packed) == list(before)
        assert all(torch.equal(tensor, before[name]) for name, tensor in packed.items())
        net.unpack()
        assert all(left is right for left, right in zip(net.parameters(), parameters, strict=True))
        assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    net.train()(tokens, targets=tokens).loss.backward()


def test_only_experts_that_have_tokens_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    product = PackedMatrix._product
    net = model(n_layers=1, feed_forward=EXPERTS["gated"]).pack()
    monkeypatch.setattr(PackedMatrix, "_product", lambda self, x: calls.append(self.sizes) or product(self, x))
    net(torch.zeros(1, 1).long())
    assert calls[2:] == [[48, 48], [64]] * 2


def test_the_weights_of_experts_are_held_once() -> None:
    net = model(feed_forward=EXPERTS["gated"])
    bank = net.blocks[0].feed_forward.experts
    net.pack()
    assert [parameter.numel() for parameter in bank.parameters()] == [0, 0, 0]
