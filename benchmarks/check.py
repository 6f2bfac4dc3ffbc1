"""What `sublayer check` estimates, beside what is then measured.

    python benchmarks/check.py             peak training memory of ten compositions
    python benchmarks/check.py --table     five presets in all that is told, as markdown
    python benchmarks/check.py --json ...  the same as one JSON object

Each training run is a process of its own: it imports, prepares the data (made-up words), notes the memory that it
holds, trains four steps with an evaluation and a saved state, and reads the most that it has held.  Linux only, as it
reads /proc.
"""

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from timing import table

from sublayer.preflight import check
from sublayer.run import RunConfig, read_config, read_preset
from sublayer.training import Watcher

STEPS = 4

TEN: dict[str, dict[str, Any]] = {
    "a narrow one": {"model.d_model": 256, "model.n_layers": 4},
    "learned positions, GELU, float32": {
        "dtype": "float32",
        "model.position": "learned",
        "model.feed_forward": "gelu",
        "model.norm": "layer",
    },
    "ALiBi, ReLU, post-norm": {"model.position": "alibi", "model.feed_forward": "relu", "model.residual": "post_norm"},
    "Muon, accumulated": {"training.optimizer": "muon", "training.accumulation": 2},
    "one thread": {"training.threads": 1, "model.feed_forward": "geglu"},
    "long rows, a window": {
        "data.sequence_length": 1024,
        "training.batch_size": 4,
        "model.d_model": 256,
        "model.attention.pattern": {"kind": "window", "size": 64},
    },
    "dropout": {"model.dropout": 0.1, "model.feed_forward.kind": "dense", "model.n_layers": 4},
    "a large vocabulary": {"model.vocab_size": 32768, "model.n_layers": 2, "model.tied_embeddings": False},
    "wide matrices": {
        "model.d_model": 1024,
        "model.n_layers": 2,
        "model.feed_forward.d_ff": 8448,
        "data.sequence_length": 128,
        "training.batch_size": 4,
    },
    "reference kernel, attention only": {
        "model.attention.kernel": "reference",
        "model.feed_forward": "none",
        "model.position": {"kind": "sinusoidal", "combine": "concatenate"},
        "model.tied_embeddings": False,
    },
}
"""Compositions as changes to `BASE`."""

BASE: dict[str, Any] = {
    "device": "cpu",
    "model": {"vocab_size": 8192, "d_model": 384, "n_layers": 6, "feed_forward": "swiglu"},
    "training": {"batch_size": 8},
    "data": {"sequence_length": 256},
}

PRESETS = ("default", "gpt2-mini", "llama-mini", "bloom-mini", "mistral-mini")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(train(json.loads(arguments.child))))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SUBLAYER_CACHE"] = f"{folder}/cache"
        write_text(Path(folder) / "text")
        if arguments.table:
            rows = [everything(name, folder) for name in PRESETS]
            print(json.dumps(rows) if arguments.json else in_markdown(rows))
            return
        rows = [memory(name, changes, folder) for name, changes in TEN.items()]
        if arguments.json:
            print(json.dumps(rows))


def memory(name: str, changes: dict[str, Any], folder: str) -> dict[str, Any]:
    """Peak training memory of one composition, estimated and measured, in bytes."""
    config = read_config(BASE, changes | quick(folder))
    began = time.perf_counter()
    estimated = check(config).memory.training.peak
    seconds = time.perf_counter() - began
    measured = run(config.tree())["peak"]
    print(
        f"{name:34} {estimated / 1e6:8,.0f} MB estimated ({seconds:.1f} s)  {measured / 1e6:8,.0f} MB measured  "
        f"{estimated / measured:5.2f}",
        file=sys.stderr,
        flush=True,
    )
    return {"name": name, "estimated": estimated, "measured": measured}


def everything(name: str, folder: str) -> dict[str, Any]:
    """All that is told of a preset, each figure as (told, found)."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from sublayer.model import Transformer

    told = check(read_preset(name), measure=True)
    config = read_config(read_preset(name), quick(folder) | {"model.vocab_size": told.vocab_size})
    model = Transformer(config.model)
    attention = config.model.attention.model_copy(update={"kernel": "reference"})
    traced = Transformer(config.model.model_copy(update={"attention": attention}))
    tokens = torch.zeros(1, config.data.sequence_length, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        traced(tokens, targets=tokens).loss.backward()
    longest = max(told.memory.decoding)
    dtype = getattr(torch, told.dtype)
    held = (
        model.init_state(1, longest, dtype=dtype).n_bytes + sum(p.numel() for p in model.parameters()) * dtype.itemsize
    )
    ran = run(longer(config, 16).tree())
    assert told.memory.training is not None and told.measured is not None
    row = {
        "name": name,
        "parameters": (told.parameters.total, model.n_parameters()),
        "flops": (told.flops_per_token.training, counter.get_total_flops() / tokens.numel()),
        "decoding memory": (told.memory.decoding[longest], held),
        "training memory": (told.memory.training.peak, ran["peak"]),
        "training speed": (told.measured.training_tokens_per_second, ran["training"]),
        "decoding speed": (told.measured.decoding_tokens_per_second, ran["decoding"]),
    }
    print(row, file=sys.stderr, flush=True)
    return row


def in_markdown(rows: list[dict[str, Any]]) -> str:
    """The rows of `everything`, each figure as told beside found."""
    scale = {"parameters": (1, ""), "flops": (1e6, " M"), "decoding memory": (1e6, " MB")}
    scale |= {"training memory": (1e6, " MB"), "training speed": (1, "/s"), "decoding speed": (1, "/s")}
    names = list(scale)

    def cell(name: str, told: float, found: float) -> str:
        size, unit = scale[name]
        digits = 2 if size > 1 and told < 100 * size else 0
        return f"{told / size:,.{digits}f} · {found / size:,.{digits}f}{unit} ({told / found:.2f})"

    lines = [[row["name"], *(cell(name, *row[name]) for name in names)] for row in rows]
    return table(["preset", *names], lines)


def longer(config: RunConfig, steps: int) -> RunConfig:
    """The same run with more steps."""
    training = config.training.model_copy(update={"steps": steps})
    return config.model_copy(update={"training": training})


def quick(folder: str) -> dict[str, Any]:
    """Changes that make a run short, and nothing else."""
    return {
        "data.sources": [{"kind": "text", "path": f"{folder}/text"}],
        "data.tokenizer": "bytes",
        "training.steps": STEPS,
        "training.evaluation_tokens": None,
        "training.baselines": False,
        "training.logging.tensorboard": False,
    }


def run(config: dict[str, Any]) -> dict[str, float]:
    """What a training run in a process of its own measures."""
    command = [sys.executable, __file__, "--child", json.dumps(config)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(ended.stderr.strip().splitlines()[-1])
    return json.loads(ended.stdout.splitlines()[-1])


def train(tree: dict[str, Any]) -> dict[str, float]:
    """Trains, and gives the bytes held at the highest point above those held before."""
    from sublayer.api import generate, load
    from sublayer.checkpoint import save_description
    from sublayer.data import prepare
    from sublayer.training import train as train_model
    from sublayer.training.device import choose_device, choose_dtype

    config = read_config(tree)
    device = choose_device(config.device)
    corpus = prepare(config.data)
    config = config.with_vocabulary(corpus.tokenizer.vocab_size)
    Path("/proc/self/clear_refs").write_text("5")  # the highest point is counted from here
    before = status("VmRSS")
    watcher = Speeds()
    with tempfile.TemporaryDirectory() as directory:
        train_model(
            config.model,
            corpus,
            config.training,
            Path(directory),
            identity=config.tree(),
            device=device,
            dtype=choose_dtype(config.dtype, device),
            watcher=watcher,
        )
        peak = status("VmHWM") - before
        save_description(Path(directory), config.model, corpus.tokenizer)
        model, tokenizer = load(directory, dtype=config.dtype)
    model.pack()
    began: list[float] = []
    generate(model, tokenizer, "e" * 63, max_tokens=48, seed=0, on_text=lambda *_: began.append(time.perf_counter()))
    gaps = [later - earlier for earlier, later in pairwise(began)]
    return {
        "before": before,
        "peak": peak,
        "training": statistics.median(watcher.speeds[2:] or watcher.speeds),
        "decoding": 1 / statistics.median(gaps) if gaps else float("nan"),
    }


class Speeds(Watcher):
    """Keeps the tokens a second of each step."""

    def __init__(self) -> None:
        self.speeds: list[float] = []

    def trained(self, step: int, loss: float, tokens_per_second: float) -> None:
        self.speeds.append(tokens_per_second)


def status(name: str) -> int:
    """A figure that Linux keeps of this process, in bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def write_text(folder: Path) -> None:
    """A few files of made-up words."""
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 8))) for _ in range(500)]
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.md").write_text(" ".join(draw.choices(words, k=3000)))


if __name__ == "__main__":
    main()
