"""Experts divided among ranks compute what one rank with all of them does.

Shapes: B rows, T tokens, E experts.
"""

import copy
import functools
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.testing import assert_close

from sublayer.checkpoint import load_model, load_weights, save_model, save_weights
from sublayer.data import DataConfig
from sublayer.model import ModelConfig, Report, Transformer
from sublayer.model.experts.exchange import counted_traffic, moved_bytes
from sublayer.model.experts.parallel import distribute_experts, divided, full_state_dict, gathered, own_part
from sublayer.model.ghost import ghost
from sublayer.model.initialise import initialise
from sublayer.training.gradients import gradient_norm, reduce_gradients
from sublayer.training.optimizer.adamw import AdamWConfig
from sublayer.training.optimizer.base import OptimizerConfig
from sublayer.training.optimizer.muon import MuonConfig
from sublayer.training.ranks import over_ranks
from tests.ranks import on_ranks

from .one_and_several import UNEVEN, Single, batch, compare, config, recomputing, to_first_experts


def uneven(rank: int) -> None:
    compare(rank, Transformer(config()), UNEVEN, *batch(5))
    # None for the second rank's experts, which still get gradients, zeros.
    model = to_first_experts(Transformer(config()))
    compare(rank, model, UNEVEN, *batch(5))
    distribute_experts(model, dist.group.WORLD)
    tokens, targets = batch(2, seed=rank)
    model.train()(tokens, targets=targets).loss.backward()
    for parameter in divided(model).values():
        assert bool((parameter.grad == 0).all()) == (rank == 1)


def test_ranks_with_uneven_batches_and_none_for_a_ranks_experts(tmp_path: Path) -> None:
    on_ranks(2, uneven, tmp_path)


def empty(rank: int) -> None:
    tokens, targets = batch(3)
    compare(rank, Transformer(config()), [slice(0, 3), slice(3, 3)], tokens, targets)
    # Padding alone.
    targets[2] = -100
    valid = torch.ones_like(tokens, dtype=torch.bool)
    valid[2] = False
    compare(rank, Transformer(config()), [slice(0, 2), slice(2, 3)], tokens, targets, valid=valid)


def test_a_rank_without_tokens(tmp_path: Path) -> None:
    on_ranks(2, empty, tmp_path)


def parts(rank: int) -> None:
    for stack, feed_forward in (
        ("decoder", {"top_k": 1, "balance": ["z_loss"]}),
        ("decoder", {"router": "hash", "expert": "relu", "shared": {"gate": True}}),
        ("encoder", {"router": "expert_choice"}),
        ("encoder", {"router": "soft"}),
    ):
        model = Transformer(config(stack=stack, **feed_forward))
        compare(rank, model, UNEVEN, *batch(5))


def test_every_router(tmp_path: Path) -> None:
    on_ranks(2, parts, tmp_path)


def changed(rank: int) -> None:
    compare(rank, Transformer(config()), UNEVEN, *batch(5), change=recomputing)
    compare(rank, to_first_experts(Transformer(config())), UNEVEN, *batch(5), change=recomputing)
    compare(rank, Transformer(config()).double(), UNEVEN, *batch(5))
    compare(rank, Transformer(config()), UNEVEN, *batch(5), dtype=torch.bfloat16, rounding=1e-3)


def test_recomputation_and_types(tmp_path: Path) -> None:
    on_ranks(2, changed, tmp_path)


def compiled(rank: int, backend: str) -> None:
    compare(rank, Transformer(config()), UNEVEN, *batch(5), change=functools.partial(torch.compile, backend=backend))
    compare(
        rank,
        to_first_experts(Transformer(config())),
        UNEVEN,
        *batch(5),
        change=functools.partial(torch.compile, backend=backend),
    )


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled(tmp_path: Path, backend: str) -> None:
    on_ranks(2, compiled, tmp_path, backend)


def saved(rank: int, folder: Path, divided_on: int) -> None:
    """Write a model whose experts were divided among so many ranks, and read it anew."""
    mesh = init_device_mesh(
        "cpu", (dist.get_world_size() // divided_on, divided_on), mesh_dim_names=("copies", "experts")
    )
    model = Transformer(config(), seed=7)
    single = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    distribute_experts(model, mesh["experts"])
    own = model.state_dict()
    for name in divided(model):
        assert len(own[name]) == 4 // divided_on
        assert own[name].untyped_storage().nbytes() == own[name].nbytes
    save_weights(folder, model)
    written = load_weights(folder)
    assert written.keys() == single.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in single.items())

    save_model(folder / "whole", model, DataConfig(tokenizer="bytes").tokenizer.build(lambda: iter(())))
    dist.barrier()
    loaded, _ = load_model(folder / "whole")
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in single.items())

    other = Transformer(config(), seed=8)
    distribute_experts(other, mesh["experts"])
    other.load_state_dict(written)
    other.load_state_dict(other.state_dict())
    late = ghost(config())
    distribute_experts(late, mesh["experts"])
    late.load_state_dict(written, assign=True)
    drawn = ghost(config())
    distribute_experts(drawn, mesh["experts"])
    drawn.to_empty(device="cpu")
    for buffer in drawn.buffers():
        buffer.zero_()
    initialise(drawn, seed=7)
    for each in (other, late, copy.deepcopy(other), drawn):
        whole = full_state_dict(each)
        assert all(torch.equal(whole[name], tensor) for name, tensor in single.items())


def stepped(
    kind: OptimizerConfig, model: Transformer, gradients: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The whole state of an optimizer that goes on from `state`, after a step."""
    optimizer = kind.build(model)
    optimizer.load(own_part(model, state))
    for name, gradient in own_part(model, gradients).items():
        model.get_parameter(name).grad = gradient.clone()
    optimizer.step(1.0)
    return gathered(model, optimizer.state())


def resumed(rank: int, kind: OptimizerConfig) -> None:
    """A step on one rank, one on all, and one on one again, as if all were done on one."""
    model = Transformer(config())
    gradients = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    for gradient in gradients.values():
        dist.broadcast(gradient, 0)
    alone = copy.deepcopy(model)
    state: Mapping[str, Tensor] = {}
    for _ in range(3):
        state = stepped(kind, alone, gradients, state)
    moved = stepped(kind, model, gradients, {})
    distribute_experts(model, dist.group.WORLD)
    moved = stepped(kind, model, gradients, moved)
    back = Transformer(config(), seed=1)
    back.load_state_dict(full_state_dict(model))
    moved = stepped(kind, back, gradients, moved)
    assert moved.keys() == state.keys()
    assert all(torch.equal(moved[name], tensor) for name, tensor in state.items())
    assert all(torch.equal(p, back.get_parameter(name)) for name, p in alone.named_parameters())


def saved_by_two(rank: int, folder: Path) -> None:
    saved(rank, folder, 2)
    for kind in (AdamWConfig(), MuonConfig()):
        resumed(rank, kind)


def test_weights_and_optimizer_states_of_any_number_of_ranks(tmp_path: Path) -> None:
    on_ranks(2, saved_by_two, tmp_path, tmp_path)


def refused(rank: int) -> None:
    group = dist.group.WORLD
    for model, message in (
        (Transformer(config(n_experts=3)), "n_experts: the 3 experts of blocks.0.feed_forward cannot be divided"),
        (Transformer(ModelConfig(vocab_size=8, d_model=16, n_layers=1, attention={"n_heads": 2})), "has no experts"),
    ):
        before = {name: parameter.shape for name, parameter in model.named_parameters()}
        with pytest.raises(ValueError, match=message):
            distribute_experts(model, group)
        assert before == {name: parameter.shape for name, parameter in model.named_parameters()}
    model = Transformer(config())
    with pytest.raises(ValueError, match=r"the mesh has 2 dimensions \(copies, experts\); choose one"):
        distribute_experts(model, init_device_mesh("cpu", (1, 2), mesh_dim_names=("copies", "experts")))
    model.packed = True
    with pytest.raises(ValueError, match="a packed model stays whole"):
        distribute_experts(model, group)
    model.packed = False
    distribute_experts(model, group)
    with pytest.raises(ValueError, match="are divided already"):
        distribute_experts(model, group)


def test_refused(tmp_path: Path) -> None:
    on_ranks(2, refused, tmp_path)


def counted(rank: int) -> None:
    """Every token goes to two of the first three experts, of which rank 1 has one."""
    model = Transformer(config(router="hash", balance=None)).train()
    distribute_experts(model, dist.group.WORLD)
    tokens, targets = batch(8, seed=rank)
    with counted_traffic() as traffic:
        out = model(tokens, targets=targets)
        forward = traffic.bytes
        out.loss.backward()
    first = 1 - rank  # the other rank's experts
    others = sum(
        int(out.report.counts[f"layers.{layer}.feed_forward.load"].view(2, 2)[first].sum()) for layer in (0, 1)
    )
    mine = int(over_ranks(Report(counts={"to": torch.tensor(others)})).counts["to"])
    # Rows there and, of those that the other rank sent, back; and the same for the gradients.
    assert traffic.rows == 2 * mine
    assert traffic.bytes == traffic.rows * 16 * 4 == 2 * forward
    assert traffic.collectives == 2 * 2 * 2
    assert traffic.count_bytes == 2 * 2 * 8
    total_bytes = over_ranks(Report(counts={"bytes": torch.tensor(traffic.bytes)})).counts["bytes"]
    by_formula = moved_bytes(model.config, 2) * 2 * tokens.numel()
    assert 0.9 < float(total_bytes) / by_formula < 1.1


def test_bytes_moved_counted_and_by_formula(tmp_path: Path) -> None:
    assert moved_bytes(config(), 1) == 0
    assert moved_bytes(config(top_k=2), 4, itemsize=2) == 2 * 4 * 2 * 16 * 2 * 3 / 4
    assert moved_bytes(config(top_k=2, every=2), 4, training=False) == 1 * 2 * 2 * 16 * 4 * 3 / 4
    on_ranks(2, counted, tmp_path)


def four(rank: int, folder: Path) -> None:
    compare(rank, Transformer(config()), [slice(0, 2), slice(2, 2), slice(2, 5), slice(5, 6)], *batch(6))
    compare(rank, to_first_experts(Transformer(config())), [slice(r, r + 1) for r in range(4)], *batch(4))
    for divided_on in (2, 4):
        saved(rank, folder, divided_on)
    for kind in (AdamWConfig(), MuonConfig()):
        resumed(rank, kind)


def test_four_ranks(tmp_path: Path) -> None:
    on_ranks(4, four, tmp_path, tmp_path)


def copies(rank: int) -> None:
    """Two copies of the model, each with its experts on two ranks."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("copies", "experts"))
    tokens, targets = batch(4)
    single = Single(Transformer(config(balance=[])), tokens, targets)
    model = Transformer(config(balance=[])).train()
    distribute_experts(model, mesh["experts"])
    loss = model(tokens[rank : rank + 1], targets=targets[rank : rank + 1]).losses["cross_entropy"] / 4
    loss.backward()
    with pytest.raises(ValueError, match="give the group of the 2 ranks with the same experts"):
        reduce_gradients(model)
    reduce_gradients(model, replicas=mesh["copies"].get_group())
    gradients = gathered(model, {n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    for name, gradient in single.gradients.items():
        assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-5)
    assert_close(gradient_norm(model), single.norm)


def test_copies_of_divided_experts(tmp_path: Path) -> None:
    on_ranks(4, copies, tmp_path)
