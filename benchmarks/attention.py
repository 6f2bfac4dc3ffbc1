"""The kernels `dense` and `sdpa`, forward and backward, packed documents, on this machine's CPU.

    python benchmarks/attention.py [cores]

Alone in both dtypes, and in bfloat16 with a fixed and a learned bias by offset, and with padding.  On one core, as each
thread of a training step has it, or on as many as are asked for.  Then one thread's share of a step of the default run,
forward and backward.  Prints ratios of medians: above 1, `dense` is the faster.  Then a decoding step over a cache in
bfloat16: PyTorch's fused kernel as it is, over each of the two.  Last, values wider or narrower than keys, as in latent
and differential attention, forward and backward: again the fused kernel over each.
"""

import sys

import torch
from timing import medians
from torch.nn import functional as F

from sublayer.data import prepare
from sublayer.measures.held_out import layout_of
from sublayer.model import Transformer
from sublayer.model.attention.kernel import KERNELS, Attention
from sublayer.model.attention.pattern.base import Causal
from sublayer.model.attention.score import OffsetBias
from sublayer.model.layout import Layout, Span
from sublayer.run import read_config
from sublayer.training.device import autocast
from sublayer.training.loop import shares

STEPS = ((1, 12, 12, 64), (1, 12, 12, 512), (1, 12, 12, 2048), (8, 12, 12, 256), (8, 12, 12, 2048), (8, 12, 4, 2048))
WIDTHS = ((4, 6, 256, 96, 64), (2, 6, 1024, 96, 64), (4, 6, 256, 32, 64), (2, 6, 1024, 32, 64))
SHAPES = ((4, 2, 256, 64), (8, 6, 256, 32), (4, 8, 512, 64), (2, 8, 1024, 64))


def ratio(batch: int, n_heads: int, length: int, width: int, dtype: torch.dtype, beside: str = "") -> float:
    """Median time of `sdpa` over that of `dense`, with nothing beside queries and keys, or a bias, or padding."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(batch, n_heads, length, width, generator=generator).to(dtype).requires_grad_() for _ in range(3)
    )
    document = (torch.arange(length) >= length // 3).long()[None].expand(batch, -1)
    valid = (torch.arange(length) < length - 8)[None].expand(batch, -1) if beside == "padding" else None
    layout = Layout(document_BT=document, valid_BT=valid).resolved(length, torch.device("cpu"))
    table = torch.randn(n_heads, length, generator=generator).requires_grad_(beside == "learned")
    change = (
        OffsetBias(None, lambda offsets: table[:, offsets[0].clamp(0)][None])
        if beside in ("fixed", "learned")
        else None
    )
    call = Attention(Causal(), Span.within(layout, plain=False), width**-0.5, change)

    def run(name: str) -> None:
        for _ in range(8):  # as often as a model with a few layers would in one step
            KERNELS[name](q, k, v, call).out_BHTK.sum().backward()

    times = medians({name: lambda name=name: run(name) for name in ("sdpa", "dense")})
    return times["sdpa"] / times["dense"]


def step_ratios(batch: int, n_heads: int, n_kv_heads: int, length: int) -> dict[str, float]:
    """Median time of PyTorch's fused kernel in bfloat16 over that of each kernel, for one query a row."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(batch, n_heads, 1, 64, generator=generator).bfloat16()
    k, v = (torch.randn(batch, n_kv_heads, length, 64, generator=generator).bfloat16() for _ in range(2))
    span = Span(torch.full((1, 1), length - 1), torch.arange(length)[None], whole=True, newest=True)
    call = Attention(Causal(), span, 64**-0.5)
    ways = {name: lambda name=name: KERNELS[name](q, k, v, call) for name in ("sdpa", "dense")}
    ways["fused"] = lambda: F.scaled_dot_product_attention(q, k, v, enable_gqa=n_heads != n_kv_heads)
    with torch.inference_mode():
        times = medians(ways, rounds=60)
    return {name: times["fused"] / times[name] for name in ("sdpa", "dense")}


def width_ratios(
    batch: int, n_heads: int, length: int, width: int, value_width: int, dtype: torch.dtype
) -> dict[str, float]:
    """Median time of PyTorch's fused kernel over that of each kernel, for values of another width than keys."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(batch, n_heads, length, size, generator=generator).to(dtype).requires_grad_()
        for size in (width, width, value_width)
    )
    call = Attention(Causal(), Span.within(Layout().resolved(length, torch.device("cpu")), plain=True), width**-0.5)
    ways = {
        name: lambda name=name: KERNELS[name](q, k, v, call).out_BHTK.sum().backward() for name in ("sdpa", "dense")
    }
    ways["fused"] = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()
    times = medians(ways)
    return {name: times["fused"] / times[name] for name in ("sdpa", "dense")}


def share_ratio() -> float:
    """Median time of a thread's share of a default step with `sdpa`, over that with what `auto` takes."""
    config = read_config(None)
    corpus = prepare(config.data)
    config = config.with_vocabulary(corpus.tokenizer.vocab_size)
    batch, cpu = shares(corpus, config.training, 0, 2)[0], torch.device("cpu")

    def model(kernel: str) -> Transformer:
        attention = config.model.attention.model_copy(update={"kernel": kernel})
        return Transformer(config.model.model_copy(update={"attention": attention}))

    models = {kernel: model(kernel) for kernel in ("sdpa", "auto")}

    def run(kernel: str) -> None:
        with autocast(cpu, torch.bfloat16):
            out = models[kernel](batch.tokens_BT, layout_of(batch, cpu), targets=batch.targets_BT)
        out.loss.backward()

    times = medians({kernel: lambda kernel=kernel: run(kernel) for kernel in models}, rounds=25)
    return times["sdpa"] / times["auto"]


def main() -> None:
    torch.set_num_threads(int((sys.argv[1:] or ["1"])[0]))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    cases = {
        "bfloat16": (torch.bfloat16,),
        "float32": (torch.float32,),
        **{f"{beside}": (torch.bfloat16, beside) for beside in ("fixed", "learned", "padding")},
    }
    print(f"{'B×H×T×K':>16}  {'  '.join(f'{name:>9}' for name in cases)}   time of sdpa / time of dense")
    for shape in SHAPES:
        figures = [f"{ratio(*shape, *case):9.2f}" for case in cases.values()]
        print(f"{'×'.join(map(str, shape)):>16}  {'  '.join(figures)}")
    print(f"{'a share':>16}  {share_ratio():9.2f}")
    print(
        f"{'B×H×G×S':>16}  {'sdpa':>9}  {'dense':>9}   time of the fused kernel in bfloat16 / time of each, one query"
    )
    for step in STEPS:
        ratios = step_ratios(*step)
        print(f"{'×'.join(map(str, step)):>16}  {ratios['sdpa']:9.2f}  {ratios['dense']:9.2f}")
    print(
        f"{'B×H×T×K×V':>16}  {'sdpa':>9}  {'dense':>9}   time of the fused kernel / time of each, float32 and bfloat16"
    )
    for widths in WIDTHS:
        for dtype in (torch.float32, torch.bfloat16):
            ratios = width_ratios(*widths, dtype)
            print(f"{'×'.join(map(str, widths)):>16}  {ratios['sdpa']:9.2f}  {ratios['dense']:9.2f}")


if __name__ == "__main__":
    main()
