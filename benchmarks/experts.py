"""Mixture-of-experts beside a dense layer, a plain loop and Hugging Face's Mixtral (extra `peers`), in bfloat16.

    python benchmarks/experts.py [layer] [training] [decoding] [--device cuda] [--rounds N]

layer: forward and backward of a feed-forward, against a dense one that makes as many FLOPs for a token.  Tokens are new
in each round, so that experts have other numbers of rows, as in training.  training: a step as in
benchmarks/training.py; sublayer's with its load-balancing loss, Hugging Face's without one.  decoding: as in
benchmarks/decoding.py, a batch of one.  Prints ratios of medians, each way's turn coming once a round.

On a GPU: layer, and training of 350M active parameters with model FLOPs utilisation, counted as in
benchmarks/gpu_training.py with the active parameters as N.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from decoding import of_hugging_face, of_sublayer, tokenizer_for
from gpu_training import PEAKS, step_of
from peers import (
    GPU_EXPERTS,
    GPU_MEDIUM,
    MIDDLE_EXPERTS,
    SMALL_EXPERTS,
    Shape,
    hugging_face_experts,
    n_parameters,
    ours,
)
from timing import medians, table
from torch import Tensor, nn
from torch.nn import functional as F

from sublayer.model.experts.mixture import Mixture
from sublayer.model.experts.routing import Places
from sublayer.model.layout import Layout, Span
from sublayer.model.sublayer import Context
from sublayer.training.crew import Crew
from training import BATCH, LENGTH, in_shares, on_cores, together

PARTS = ("layer", "training", "decoding")
LAYERS = ((384, 512, 8, 2), (768, 1024, 8, 2), (384, 128, 64, 8), (768, 256, 64, 8))
"""d_model, d_ff of an expert, experts, top_k."""
GPU_LAYERS = ((1024, 1408, 8, 2), (2048, 1408, 8, 2), (1024, 352, 64, 8), (2048, 1024, 64, 8))
IMPLEMENTATIONS = ("eager", "grouped_mm")


class Looped(nn.Module):
    """The plain loop: for each expert its tokens, its three products, and its outputs added to those of the others."""

    def __init__(self, mixture: Mixture) -> None:
        super().__init__()
        self.mixture = mixture

    def forward(self, x_NTD: Tensor, context: Context) -> Tensor:
        x_ND, bank = x_NTD.flatten(0, 1), self.mixture.experts
        routing = self.mixture.router.route(x_ND, Places((x_NTD.shape[0], x_NTD.shape[1]), context.layout))
        y_ND = torch.zeros_like(x_ND, dtype=torch.float32)
        for number, (gate, up, down) in enumerate(zip(bank.gate, bank.up, bank.down, strict=True)):
            chosen = (routing.expert_M == number).nonzero()[:, 0]
            rows, weight = x_ND[routing.token_M[chosen]], routing.weight_M[chosen, None]
            y = F.linear(F.silu(F.linear(rows, gate)) * F.linear(rows, up), down)
            y_ND = y_ND.index_add(0, routing.token_M[chosen], y.float() * weight)
        return y_ND.to(x_ND.dtype).view_as(x_NTD)


def layer_ways(
    d_model: int, d_ff: int, n_experts: int, top_k: int, n_tokens: int, device: torch.device
) -> Mapping[str, Callable[[], None]]:
    """Forward and backward of one feed-forward, the same in each way but for how it is computed."""
    shape = Shape(d_model, 1, d_model // 64, d_ff, 64, n_tokens, n_experts, top_k)
    dense = replace(shape, d_ff=d_ff * top_k, n_experts=0)
    layout = Layout().resolved(n_tokens, device)
    model = ours(shape).to(device).train()
    mixture = model.blocks[0].feed_forward
    context = Context(layout, Span.within(layout, plain=True), model.position(0))
    modules: dict[str, Callable[[Tensor], Tensor]] = {}

    def add(name: str, module: nn.Module, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        modules[name] = lambda x: call(module, x)
        parameters[name] = [each for each in module.parameters() if each.requires_grad]

    parameters: dict[str, list[Tensor]] = {}
    feed_forward = ours(dense).to(device).train().blocks[0].feed_forward
    add("dense, as many FLOPs", feed_forward, lambda module, x: module(x, context)[0])
    add("sublayer", mixture, lambda module, x: module(x, context)[0])
    add("a plain loop", Looped(mixture), lambda module, x: module(x, context))
    for implementation in IMPLEMENTATIONS:
        block = hugging_face_experts(shape, implementation).to(device).train().model.layers[0].mlp
        add(f"Hugging Face, {implementation}", block, lambda module, x: module(x))

    def way(name: str) -> Callable[[], None]:
        def run() -> None:
            x = torch.randn(1, n_tokens, d_model, device=device, dtype=torch.bfloat16, requires_grad=True)
            towards = torch.randn(1, n_tokens, d_model, device=device, dtype=torch.bfloat16)
            with torch.autocast(device.type, torch.bfloat16):
                y = modules[name](x)
            torch.autograd.grad(y, [x, *parameters[name]], towards.to(y.dtype))
            if device.type == "cuda":
                torch.cuda.synchronize()

        return run

    return {name: way(name) for name in modules}


def layer(rounds: int, n_tokens: int, device: torch.device) -> None:
    rows = []
    for sizes in LAYERS if device.type == "cpu" else GPU_LAYERS:
        times = medians(layer_ways(*sizes, n_tokens, device), rounds)
        d_model, d_ff, n_experts, top_k = sizes
        for name, seconds in times.items():
            rows.append(
                [
                    f"{n_experts} experts, {top_k} a token, {d_model} × {d_ff}: {name}",
                    f"{seconds * 1e3:,.2f}",
                    f"{seconds / times['dense, as many FLOPs']:.2f}×",
                    f"{seconds / times['sublayer']:.2f}×",
                ]
            )
    print(f"forward and backward of a feed-forward, {n_tokens} tokens")
    print(table(["", "ms", "÷ dense", "÷ sublayer"], rows))


def training(rounds: int) -> None:
    cores = torch.get_num_threads()
    crew = Crew(cores, 1)
    model = ours(SMALL_EXPERTS).train()
    ways = {"sublayer": in_shares(model, crew)}
    for each in IMPLEMENTATIONS:
        ways[f"Hugging Face Mixtral, {each}"] = together(hugging_face_experts(SMALL_EXPERTS, each).train())
    with crew:
        times = medians({name: on_cores(way, cores) for name, way in ways.items()}, rounds)
    print(f"a training step, {BATCH} × {LENGTH} tokens, {n_parameters(model) / 1e6:.1f}M parameters, AdamW")
    rows = [
        [name, f"{BATCH * LENGTH / seconds:,.0f}", f"{seconds / times['sublayer']:.2f}×"]
        for name, seconds in times.items()
    ]
    print(table(["", "tokens/s", "sublayer ÷ it"], rows))


def decoding(rounds: int, n_prompt: int = 16, n_tokens: int = 48) -> None:
    torch.manual_seed(0)
    tokenizer = tokenizer_for(MIDDLE_EXPERTS)
    prompts = torch.randint(0, MIDDLE_EXPERTS.vocab_size, (1, n_prompt))
    plain, packed = ours(MIDDLE_EXPERTS).bfloat16().eval(), ours(MIDDLE_EXPERTS).bfloat16().eval().pack()
    ways = {
        "sublayer": of_sublayer(packed, tokenizer, prompts, n_tokens),
        "sublayer, not packed": of_sublayer(plain, tokenizer, prompts, n_tokens),
    }
    for each in ("grouped_mm", "batched_mm", "eager"):
        peer = hugging_face_experts(MIDDLE_EXPERTS, each).bfloat16().eval()
        ways[f"Hugging Face Mixtral, {each}"] = of_hugging_face(peer, prompts, n_tokens)
    times = medians(ways, rounds)
    print(f"decoding, batch 1, {n_prompt} tokens of prompt, {n_tokens} generated, {plain.n_parameters() / 1e6:.0f}M")
    rows = [
        [name, f"{n_tokens / seconds:,.1f}", f"{seconds / times['sublayer']:.2f}×"] for name, seconds in times.items()
    ]
    print(table(["", "tokens/s", "sublayer ÷ it"], rows))


def gpu_training(rounds: int, device: torch.device, shape: Shape, batch: int, length: int) -> None:
    """Utilisation with the parameters that a token uses, beside a dense model that has as many."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    peak = next((peak for part, peak in PEAKS.items() if part in name), None)
    dense = replace(shape, d_ff=shape.d_ff * shape.top_k, n_experts=0, top_k=0)
    builds = {
        "dense": (ours, dense),
        "sublayer": (ours, shape),
        **{f"Hugging Face, {each}": (_peer(each), shape) for each in IMPLEMENTATIONS[1:]},
    }
    rows, times = [], {}
    for who, (build, its) in builds.items():
        for how in ("eager", "compiled"):
            # One at a time: all of them together may not fit.
            model = build(its).to(device).train()
            way = step_of(torch.compile(model) if how == "compiled" else model, its, batch, length, device)
            times[f"{who}, {how}"] = medians({who: way}, rounds)[who]
            del model, way
            if device.type == "cuda":
                torch.cuda.empty_cache()
    flops = active_flops(shape, length)
    for who, seconds in times.items():
        rate = batch * length / seconds
        used = f"{rate * flops / peak:.1%}" if peak else "–"
        ratio = times[f"dense, {who.rpartition(', ')[2]}"] / seconds
        rows.append([who, f"{rate:,.0f}", f"{rate * flops / 1e12:.1f}", used, f"{ratio:.2f}×"])
    print(
        f"a training step, {active_parameters(shape) / 1e6:,.1f}M active parameters, {batch} × {length} tokens, {name}"
    )
    print(table(["", "tokens/s", "model TFLOP/s", "utilisation", "÷ dense"], rows))


def _peer(implementation: str) -> Callable[[Shape], nn.Module]:
    return lambda shape: hugging_face_experts(shape, implementation)


def active_parameters(shape: Shape) -> int:
    """The matrices that a token is multiplied with, without the token embedding."""
    each = shape.d_model * (4 * shape.d_model + 3 * shape.d_ff * shape.top_k + shape.n_experts)
    return shape.n_layers * each + shape.vocab_size * shape.d_model


def active_flops(shape: Shape, length: int) -> float:
    """Of forward and backward for one token: 6 · the parameters that it uses, and those of attention."""
    return 6.0 * active_parameters(shape) + 12.0 * shape.n_layers * shape.d_model * length


def main() -> None:
    parser = argparse.ArgumentParser(description="Mixture-of-experts beside a dense layer, a loop and Hugging Face's.")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}; left out, all that there are")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--tokens", type=int, help="of the layer; left out, 2048, and 16384 on a GPU")
    parser.add_argument("--small", action="store_true", help="tiny shapes, to try the GPU's part without one")
    options = parser.parse_args()
    parts = options.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    device = torch.device(options.device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} cores, {device}, bfloat16\n")
    if "layer" in parts:
        layer(options.rounds, options.tokens or (2048 if device.type == "cpu" else 16384), device)
    if "training" in parts and device.type == "cpu" and not options.small:
        training(options.rounds)
    elif "training" in parts:
        small = Shape(64, 2, 2, 64, 512, 64, n_experts=4, top_k=2)
        assert GPU_EXPERTS.d_ff * GPU_EXPERTS.top_k == GPU_MEDIUM.d_ff
        gpu_training(options.rounds, device, *((small, 2, 64) if options.small else (GPU_EXPERTS, 8, 1024)))
    if "decoding" in parts and device.type == "cpu":
        decoding(options.rounds)


if __name__ == "__main__":
    main()
