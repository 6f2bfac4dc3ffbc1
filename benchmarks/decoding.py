"""Decoding on a CPU beside Hugging Face's `generate` (extra `peers`): the same Llama in bfloat16, greedy.

    python benchmarks/decoding.py [--batch 1 8] [--prompt N] [--tokens N] [--rounds N]

Prints ratios of medians, and what decoding adds to the memory of a process beside the size of weights and cache.
"""

import argparse
import gc
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import tokenizers
import torch
from peers import MIDDLE, Shape, hugging_face, ours
from timing import medians, table
from torch import Tensor

from sublayer.data.tokenizer import BytesConfig, Tokenizer
from sublayer.generation.config import GenerationConfig
from sublayer.generation.decoding import decode
from sublayer.model import Transformer


def tokenizer_for(shape: Shape) -> Tokenizer:
    """One with as many tokens as the model, so that every logit is looked at."""
    core = BytesConfig().build(lambda: iter(()))._core
    core.add_tokens([tokenizers.AddedToken(f"<{n}>") for n in range(core.get_vocab_size(), shape.vocab_size)])
    return Tokenizer(core)


def of_sublayer(model: Transformer, tokenizer: Tokenizer, prompts: Tensor, n_tokens: int) -> Callable[[], None]:
    """sublayer's decoding, text and all."""
    config = GenerationConfig(max_tokens=n_tokens, temperature=0)

    def run() -> None:
        events = list(decode(model, tokenizer, prompts.tolist(), config, [0] * len(prompts)))
        assert len(events) == n_tokens * len(prompts), "a row ended early; choose another seed"

    return run


def of_hugging_face(model: torch.nn.Module, prompts: Tensor, n_tokens: int) -> Callable[[], None]:
    """Hugging Face's, with its own default cache."""

    def run() -> None:
        with torch.inference_mode():
            model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                min_new_tokens=n_tokens,
                max_new_tokens=n_tokens,
                do_sample=False,
                pad_token_id=0,
            )

    return run


def memory(batch: int, n_prompt: int, n_tokens: int) -> tuple[float, float]:
    """In a process of its own: the growth of its memory while a model is there and decodes, and the size of weights and
    cache, in bytes."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_memory, (batch, n_prompt, n_tokens))


def _memory(batch: int, n_prompt: int, n_tokens: int) -> tuple[float, float]:
    tokenizer = tokenizer_for(MIDDLE)
    # What the libraries take at their first use is not the model's: a small one is decoded before the count begins.
    small = Shape(64, 2, 1, 128, MIDDLE.vocab_size, 1024)
    prompts = torch.randint(0, 200, (batch, n_prompt))
    of_sublayer(ours(small).bfloat16().eval().pack(), tokenizer, prompts, 4)()
    gc.collect()
    before = _resident("VmRSS")
    model = ours(MIDDLE).bfloat16().eval().pack()
    gc.collect()
    _trim()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew: building one may take more
    of_sublayer(model, tokenizer, prompts, n_tokens)()
    weights = 2 * model.n_parameters()
    cache = 2 * 2 * MIDDLE.n_layers * batch * (n_prompt + n_tokens) * MIDDLE.d_model
    return _resident("VmHWM") - before, weights + cache


def _resident(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * int(next(line for line in lines if line.startswith(name)).split()[1])


def _trim() -> None:
    import ctypes

    ctypes.CDLL("libc.so.6").malloc_trim(0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Decoding on a CPU beside Hugging Face's generate.")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--prompt", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()

    torch.manual_seed(0)
    tokenizer = tokenizer_for(MIDDLE)
    peer = hugging_face(MIDDLE).bfloat16().eval()
    plain, packed = ours(MIDDLE).bfloat16().eval(), ours(MIDDLE).bfloat16().eval().pack()
    rows = []
    for batch in options.batch:
        prompts = torch.randint(0, MIDDLE.vocab_size, (batch, options.prompt))
        times = medians(
            {
                "Hugging Face": of_hugging_face(peer, prompts, options.tokens),
                "sublayer, not packed": of_sublayer(plain, tokenizer, prompts, options.tokens),
                "sublayer": of_sublayer(packed, tokenizer, prompts, options.tokens),
            },
            options.rounds,
        )
        grown, expected = memory(batch, options.prompt, options.tokens)
        for name, seconds in times.items():
            figures = [f"{grown / 1e6:,.0f} MB", f"{grown / expected:.2f}×"] if name == "sublayer" else ["", ""]
            speed, ratio = batch * options.tokens / seconds, times["Hugging Face"] / seconds
            rows.append([f"batch {batch}: {name}", f"{speed:,.1f}", f"{ratio:.2f}×", *figures])
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} cores; {options.prompt} tokens of prompt and "
        f"{options.tokens} generated, bfloat16, {plain.n_parameters() / 1e6:.0f}M parameters"
    )
    print(table(["", "tokens/s", "÷ Hugging Face", "memory grown", "÷ weights and cache"], rows))


if __name__ == "__main__":
    main()
