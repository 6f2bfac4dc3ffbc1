"""What grows with the number of experts: parameters, FLOPs, and the bytes that expert parallelism moves.

Counted from configs, and the bytes of one of them measured on two processes as well.
"""

import datetime
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from sublayer.data import prepare
from sublayer.model import ModelConfig, Transformer
from sublayer.model.cost import cost
from sublayer.model.experts.exchange import counted_traffic, moved_bytes
from sublayer.model.experts.mixture import ExpertsConfig
from sublayer.model.experts.parallel import distribute_experts
from sublayer.model.ghost import ghost

from .desk import DENSE, EXPERTS, Desk, Variant
from .study import Figures, Study, colour, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBERS = (2, 4, 8, 16, 32, 64, 128)
PARTS = (1, 2, 4, 8)
"""That each of eight experts is cut into (fine-grained experts), with as many times the experts for a token."""
RANKS = (2, 4, 8)
MEASURED_RANKS, MEASURED_STEPS = 2, 4


def model_config(desk: Desk, vocab_size: int, **changes: Any) -> ModelConfig:
    """Of experts.yaml, with other numbers of experts and so on."""
    keys = {f"model.feed_forward.{name}": value for name, value in changes.items()}
    config = desk.config(Variant("", EXPERTS, keys), 0).with_vocabulary(vocab_size)
    return config.model


def counted(config: ModelConfig, length: int) -> dict[str, Any]:
    """Parameters, and for a token FLOPs of training and bytes moved, by the number of ranks that can share experts."""
    told = cost(ghost(config))
    layer = config.resolve()[0].feed_forward
    n_experts = layer.n_experts if isinstance(layer, ExpertsConfig) else 0
    return {
        "n_experts": n_experts,
        "top_k": layer.chosen if isinstance(layer, ExpertsConfig) else 0,
        "total": told.parameters.total,
        "active": told.parameters.active,
        "flops": told.training_flops(length, "visible"),
        "bytes": {str(n): moved_bytes(config, n) for n in RANKS if n_experts and n_experts % n == 0},
    }


def measure(desk: Desk) -> Figures:
    run = desk.config(Variant("", EXPERTS), 0)
    corpus = prepare(run.data)
    size, length = corpus.tokenizer.vocab_size, run.data.sequence_length
    dense = desk.config(Variant("", DENSE), 0).with_vocabulary(size).model
    base = model_config(desk, size).resolve()[0].feed_forward
    assert isinstance(base, ExpertsConfig)
    d_ff = base.expert.tree()["d_ff"]
    grown = [model_config(desk, size, n_experts=n, top_k=2) for n in NUMBERS]
    fine = [
        model_config(desk, size, **{"n_experts": 8 * g, "top_k": 2 * g, "expert.d_ff": d_ff // g})
        for g in PARTS
        if d_ff % g == 0
    ]
    n_rows = run.training.batch_size
    batches = [corpus.batch(0, step * n_rows, n_rows) for step in range(MEASURED_STEPS)]
    told = [
        measured(config, [batch.tokens_BT for batch in batches], [batch.targets_BT for batch in batches])
        for config in (grown[2], *fine[1:2])
    ]
    return {
        "length": length,
        "dense": counted(dense, length),
        "grown": [counted(config, length) for config in grown],
        "fine": [counted(config, length) for config in fine],
        "measured": told,
    }


def measured(config: ModelConfig, tokens: Sequence[Tensor], targets: Sequence[Tensor]) -> dict[str, Any]:
    """Bytes that two processes send each other, forward and backward, each computing half of every batch."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, (Path(folder), config.tree(), list(tokens), list(targets)), MEASURED_RANKS, join=True)
        sent = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(MEASURED_RANKS)]
    n_tokens = sum(batch.numel() for batch in tokens)
    layer = config.resolve()[0].feed_forward
    assert isinstance(layer, ExpertsConfig)
    return {
        "n_experts": layer.n_experts,
        "top_k": layer.chosen,
        "ranks": MEASURED_RANKS,
        "tokens": n_tokens,
        "bytes": sum(each["bytes"] for each in sent) / n_tokens,
        "count_bytes": sum(each["count_bytes"] for each in sent) / n_tokens,
        "formula": moved_bytes(config, MEASURED_RANKS),
    }


def _rank(rank: int, folder: Path, tree: dict[str, Any], tokens: list[Tensor], targets: list[Tensor]) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    meeting = f"file://{folder / 'meeting'}"
    limit = datetime.timedelta(minutes=5)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=MEASURED_RANKS, timeout=limit)
    model = Transformer(ModelConfig.parse(tree), seed=0).train()
    distribute_experts(model, dist.group.WORLD)
    with counted_traffic() as traffic:
        for tokens_BT, targets_BT in zip(tokens, targets, strict=True):
            mine = slice(rank, None, MEASURED_RANKS)
            model(tokens_BT[mine], targets=targets_BT[mine]).loss.backward()
    (folder / f"{rank}.json").write_text(json.dumps({"bytes": traffic.bytes, "count_bytes": traffic.count_bytes}))
    dist.barrier()
    dist.destroy_process_group()


def tables(figures: Figures) -> list[str]:
    dense = figures["dense"]
    header = [
        *("experts", "a token", "parameters", "active", "÷ dense", "FLOPs of training", "÷ dense"),
        *(f"bytes, {n} ranks" for n in RANKS),
    ]
    nothing = ["–"] * len(RANKS)
    first = ["dense", "", f"{dense['total']:,}", f"{dense['active']:,}", "1.00", f"{dense['flops']:,.0f}", "1.00"]

    def row(one: Figures) -> list[str]:
        moved = [f"{one['bytes'][str(n)]:,.0f}" if str(n) in one["bytes"] else "–" for n in RANKS]
        return [
            str(one["n_experts"]),
            str(one["top_k"]),
            f"{one['total']:,}",
            f"{one['active']:,}",
            f"{one['active'] / dense['active']:.2f}",
            f"{one['flops']:,.0f}",
            f"{one['flops'] / dense['flops']:.2f}",
            *moved,
        ]

    told = [
        [
            f"{one['n_experts']} experts, {one['top_k']} a token, {one['ranks']} ranks",
            f"{one['tokens']:,}",
            f"{one['bytes']:,.1f}",
            f"{one['formula']:,.1f}",
            f"{one['bytes'] / one['formula']:.3f}",
            f"{one['count_bytes']:,.2f}",
        ]
        for one in figures["measured"]
    ]
    return [
        "More experts:",
        table(header, [[*first, *nothing], *map(row, figures["grown"])]),
        "Finer experts, of which a token has more:",
        table(header, map(row, figures["fine"])),
        "Bytes a token that two processes sent each other, forward and backward:",
        table(("", "tokens", "counted", "by formula", "ratio", "numbers of rows, besides"), told),
    ]


def draw(figures: Figures, figure: "Figure") -> None:
    left, right = figure.subplots(1, 2)
    numbers = [one["n_experts"] for one in figures["grown"]]
    dense = figures["dense"]
    names = {"total": "parameters", "active": "active parameters", "flops": "FLOPs"}
    for number, (key, name) in enumerate(names.items()):
        left.plot(
            numbers,
            [one[key] / dense[key] for one in figures["grown"]],
            color=colour(number),
            marker="o",
            label=name,
            linestyle="--" if key == "flops" else "-",
        )
    left.set(xscale="log", yscale="log", xlabel="experts, two for a token", ylabel="÷ dense")
    left.set_xticks(numbers, [str(n) for n in numbers])
    left.legend(frameon=False)
    for number, n in enumerate(RANKS):
        points = [(one["top_k"], one["bytes"][str(n)] / 1024) for one in figures["fine"] if str(n) in one["bytes"]]
        right.plot(*zip(*points, strict=True), color=colour(number), marker="o", label=f"{n} ranks")
    for one in figures["measured"]:
        right.plot(one["top_k"], one["bytes"] / 1024, color="black", marker="x", markersize=8, linestyle="")
    right.set(xlabel="experts of a token (crosses: measured)", ylabel="KiB moved a token")
    right.legend(frameon=False)


STUDY = Study(
    "growth",
    "parameters, FLOPs and bytes moved as experts grow from 2 to 128; nothing is trained",
    minutes=0.5,
    seeds=0,
    measure=measure,
    tables=tables,
    draw=draw,
)
