"""A large file of JSON lines to tokens on disk: sublayer beside Hugging Face's `datasets.map`, with the same tokenizer.

    python benchmarks/tokenizing.py [--size 200MB] [--kill] [--alone]

The text is that of the embedded corpus, its documents drawn again and again in an order that a seed gives, with a
made-up word after every twentieth line, so that the number of different words grows with the text as in a real one.
Both start from the file and end with tokens on disk; sublayer also splits off the held-out part, hashes every document,
and learns the tokenizer that both use, whose time is told apart; so is, of its own time, reading and putting the chunks
together.  MB are of text.  Memory is the largest sum of what all processes of a contestant hold (resident, so what two
share counts twice).

`--kill` kills sublayer's processes at three moments of tokenizing and lets it go on; `--alone` leaves the other out.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

UNITS = {"MB": 10**6, "GB": 10**9}

OURS = """
import json, sys, time
from pathlib import Path
from sublayer.data import DataConfig, prepare

began, stages = time.perf_counter(), {}

def progress(stage, done, rate):
    if stage not in stages:
        stages[stage] = time.perf_counter() - began
    if stage == "tokenizing" and done == 1.0:
        stages["together"] = time.perf_counter() - began
    print(stage, round(done, 3), flush=True)

source = {"kind": "jsonl", "path": sys.argv[1], "domain": "text"}
corpus = prepare(DataConfig(sources=source, tokenizer={"kind": "bpe", "vocab_size": 8192}), progress=progress)
seconds = time.perf_counter() - began
learning = stages["tokenizing"] - stages["learning the tokenizer"]
corpus.tokenizer.save(Path(sys.argv[2]))
sides = corpus.describe()["text"].values()
print(json.dumps({
    "seconds": seconds - learning, "learning": learning, "reading": stages["learning the tokenizer"],
    "together": seconds - stages["together"],
    "tokens": sum(side["tokens"] - side["documents"] for side in sides),
    "fingerprint": corpus.fingerprint,
}))
"""

THEIRS = """
import json, os, sys, time
import datasets, tokenizers

began = time.perf_counter()
rows = datasets.load_dataset("json", data_files=sys.argv[1], split="train")
core = tokenizers.Tokenizer.from_file(sys.argv[2] + "/tokenizer.json")
core.encode_special_tokens = True

def encode(batch):
    return {"ids": [row.ids for row in core.encode_batch_fast(batch["text"], add_special_tokens=False)]}

rows = rows.map(encode, batched=True, num_proc=len(os.sched_getaffinity(0)), remove_columns=["text"])
seconds = time.perf_counter() - began
tokens = sum(sum(map(len, rows[i : i + 1000]["ids"])) for i in range(0, len(rows), 1000))
print(json.dumps({"seconds": seconds, "tokens": tokens}))
"""


def documents(size: int) -> Iterator[str]:
    """Texts of `size` bytes together, always the same."""
    from sublayer.data.skipped import Skipped
    from sublayer.data.sources import EmbeddedConfig

    texts = [document.text for document in EmbeddedConfig().documents(Skipped())]
    draw, left, words = random.Random(0), size, 0
    while left > 0:
        for text in draw.sample(texts, len(texts)):
            lines = text.split("\n")
            for number in range(19, len(lines), 20):
                words += 1
                lines[number] += " " + hashlib.md5(str(words).encode()).hexdigest()[:8].translate(LETTERS)
            text = "\n".join(lines)
            left -= len(text.encode())
            yield text
            if left <= 0:
                return


LETTERS = str.maketrans("0123456789", "ghijklmnop")


def write(path: Path, size: int) -> int:
    """Write the file; its bytes of text."""
    written = 0
    with path.open("w") as file:
        for text in documents(size):
            file.write(json.dumps({"text": text}) + "\n")
            written += len(text.encode())
    return written


def resident(process: int) -> int:
    """Bytes that a process and all below it hold."""
    try:
        held = int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        below = [int(child) for task in Path(f"/proc/{process}/task").iterdir()
                 for child in (task / "children").read_text().split()]  # fmt: skip
    except (OSError, ValueError, IndexError):
        return 0
    return held + sum(map(resident, below))


class Measured:
    """A Python program, run and watched.

    Args:
        program: its text.
        arguments: what it is given.
        environment: added to this one.
        kills: at which shares of tokenizing it is killed, to be started again.
    """

    def __init__(self, program: str, arguments: list[str], environment: dict[str, str], kills: list[float]) -> None:
        self.peak, self.kills = 0, 0
        began = time.perf_counter()
        while True:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program, *arguments],
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | environment,
            )
            threading.Thread(target=self._watch, args=(self.process,), daemon=True).start()
            line = ""
            assert self.process.stdout is not None
            for line in self.process.stdout:
                if kills and line.startswith("tokenizing") and float(line.split()[1]) > kills[0]:
                    self.process.send_signal(signal.SIGKILL)
                    kills = kills[1:]
                    self.kills += 1
                    break
            if self.process.wait() != -signal.SIGKILL:
                break
        self.wall = time.perf_counter() - began
        if self.process.returncode:
            sys.exit(f"failed with {self.process.returncode}")
        self.result = json.loads(line)

    def _watch(self, process: "subprocess.Popen[str]") -> None:
        while process.poll() is None:
            self.peak = max(self.peak, resident(process.pid))
            time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", default="200MB")
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--folder", help="where to write; needs five times the size")
    asked = parser.parse_args()
    size = int(float(asked.size[:-2]) * UNITS[asked.size[-2:].upper()])
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        written = write(folder / "text.jsonl", size)
        cores = len(os.sched_getaffinity(0))
        print(f"{written / 1e6:,.0f} MB of text in {folder / 'text.jsonl'}, {cores} cores", flush=True)

        def show(name: str, run: Measured, more: str = "") -> float:
            rate = written / 1e6 / run.result["seconds"]
            print(
                f"{name:>22}: {rate:7.2f} MB/s  {run.result['seconds']:7.1f} s  peak memory {run.peak / 1e6:5.0f} MB  "
                f"{run.result['tokens']:,} tokens{more}",
                flush=True,
            )
            return rate

        def ours(kills: list[float]) -> Measured:
            cache = {"SUBLAYER_CACHE": str(folder / f"cache{len(kills)}")}
            return Measured(OURS, [str(folder / "text.jsonl"), str(folder / "tokenizer")], cache, kills)

        first = ours([])
        parts = ", ".join(f"{name} {first.result[name]:.1f} s" for name in ("reading", "together"))
        rate = show("sublayer", first, f"  (of it {parts}; learning apart, {first.result['learning']:.1f} s)")
        if asked.kill:
            killed = ours([0.2, 0.5, 0.8])
            same = killed.result["fingerprint"] == first.result["fingerprint"] and _equal(folder)
            print(
                f"{'killed three times':>22}: {killed.wall:.1f} s in all, not killed {first.wall:.1f} s; "
                f"peak memory {killed.peak / 1e6:.0f} MB; the same bytes: {same}",
                flush=True,
            )
        if not asked.alone:
            offline = {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
            theirs = Measured(THEIRS, [str(folder / "text.jsonl"), str(folder / "tokenizer")], offline, [])
            other = show("datasets.map", theirs)
            print(f"{'ratio':>22}: {rate / other:7.2f}")


def _equal(folder: Path) -> bool:
    """Whether the build that was killed left the same files."""
    trees = [
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / name).glob("data/*/*")}
        for name in ("cache0", "cache3")
    ]
    return bool(trees[0]) and trees[0] == trees[1]


if __name__ == "__main__":
    main()
