"""The kernels `dense` and `sdpa`, forward and backward, packed documents, on this machine's CPU.

    python benchmarks/attention.py

Prints the ratio of the medians: above 1, `dense` is the faster.
"""

import torch
from timing import medians

from sublayer.model.attention.kernel import KERNELS, Attention
from sublayer.model.attention.pattern.base import Causal
from sublayer.model.layout import Layout, Span

SHAPES = ((8, 2, 256, 64), (8, 6, 256, 32), (4, 8, 512, 64), (2, 8, 1024, 64))


def ratio(batch: int, n_heads: int, length: int, width: int, dtype: torch.dtype) -> float:
    """Median time of `sdpa` over that of `dense`."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(batch, n_heads, length, width, generator=generator).to(dtype).requires_grad_() for _ in range(3)
    )
    document = (torch.arange(length) >= length // 3).long()[None].expand(batch, -1)
    layout = Layout(document_BT=document).resolved(length, torch.device("cpu"))
    call = Attention(Causal(), Span.within(layout, plain=False), width**-0.5)

    def run(name: str) -> None:
        KERNELS[name](q, k, v, call).out_BHTK.sum().backward()

    times = medians({name: lambda name=name: run(name) for name in ("sdpa", "dense")})
    return times["sdpa"] / times["dense"]


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{'B×H×T×K':>16}  {'bfloat16':>9}  {'float32':>9}   time of sdpa / time of dense")
    for shape in SHAPES:
        figures = [ratio(*shape, dtype) for dtype in (torch.bfloat16, torch.float32)]
        print(f"{'×'.join(map(str, shape)):>16}  {figures[0]:9.2f}  {figures[1]:9.2f}")


if __name__ == "__main__":
    main()
