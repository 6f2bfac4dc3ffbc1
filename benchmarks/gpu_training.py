"""A training step on a GPU beside Hugging Face's Llama (extra `peers`): 124M and 350M, bfloat16, with model FLOPs
utilisation.

    python benchmarks/gpu_training.py [--rounds N] [--device cpu --small]

Model FLOPs are counted as in Chowdhery et al. 2022 (PaLM), appendix B: 6·N + 12·L·H·Q·T a token, N without the token
embedding, all T² pairs of a sequence counted though a causal model needs half of them.  Utilisation is their rate over
the device's dense bfloat16 peak, which the table below states; for a device that is not in it none is printed.
Eager and compiled; both models in autocast with a fused AdamW, packed in no way: each row is one document.
"""

import argparse
from collections.abc import Callable

import torch
from peers import GPU_MEDIUM, GPU_SMALL, Shape, hugging_face, loss_of, n_parameters, ours, seeded_tokens
from timing import medians, table
from torch import nn

PEAKS = {"H100": 989.4e12, "H200": 989.4e12, "A100": 312e12, "L4": 121e12, "RTX 4090": 165.2e12}
"""Dense bfloat16 FLOP/s by part of the device's name, without sparsity: the makers' data sheets (SXM for H100)."""


def model_flops(model: nn.Module, shape: Shape, length: int) -> float:
    """Of forward and backward, for one token."""
    embedding = shape.vocab_size * shape.d_model
    return 6.0 * (n_parameters(model) - embedding) + 12.0 * shape.n_layers * shape.d_model * length


def step_of(model: nn.Module, shape: Shape, batch: int, length: int, device: torch.device) -> Callable[[], None]:
    """A training step, waited for."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    loss = loss_of(model)
    tokens, targets = (part.to(device) for part in seeded_tokens(batch, length, shape.vocab_size))

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            value = loss(tokens, targets)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description="A training step on a GPU beside Hugging Face's.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--small", action="store_true", help="tiny shapes, to try the script without a GPU")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.set_float32_matmul_precision("high")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    peak = next((peak for part, peak in PEAKS.items() if part in name), None)
    cases = [("124M", GPU_SMALL, 32, 1024), ("350M", GPU_MEDIUM, 16, 1024)]
    if options.small:
        cases = [("tiny", Shape(64, 2, 2, 128, 512, 64), 2, 64)]
    rows = []
    for label, shape, batch, length in cases:
        builds = {"Hugging Face Llama": hugging_face, "sublayer": ours}
        ways, counted = {}, {}
        for who, build in builds.items():
            for how in ("eager", "compiled"):
                model = build(shape).to(device).train()
                counted[f"{who}, {how}"] = model_flops(model, shape, length)
                if how == "compiled":
                    model = torch.compile(model)
                ways[f"{who}, {how}"] = step_of(model, shape, batch, length, device)
        for way in ways.values():
            way()  # compiled here, and not while another way's turn is timed
        times = medians(ways, options.rounds)
        for who, seconds in times.items():
            rate = batch * length / seconds
            used = f"{rate * counted[who] / peak:.1%}" if peak else "–"
            rows.append([f"{label}: {who}", f"{rate:,.0f}", f"{rate * counted[who] / 1e12:.1f}", used])
            how = who.rpartition(", ")[2]
            rows[-1].append(f"{times[f'Hugging Face Llama, {how}'] / seconds:.2f}×")
        del ways
        if device.type == "cuda":
            torch.cuda.empty_cache()
    print(
        f"torch {torch.__version__}, {name}, peak {peak / 1e12 if peak else float('nan'):.0f} TFLOP/s (dense bfloat16)"
    )
    print(table(["model", "tokens/s", "model TFLOP/s", "utilisation", "÷ Hugging Face"], rows))


if __name__ == "__main__":
    main()
