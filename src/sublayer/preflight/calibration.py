"""How fast a model will be on this machine, from a few steps of it, or of a smaller one like it.

Shapes: B batch, T tokens.
"""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sublayer.data import RowShape
from sublayer.model import ModelConfig, Transformer
from sublayer.model.cost import ModelCost, cost
from sublayer.model.ghost import ghost
from sublayer.run import RunConfig
from sublayer.training.config import TrainingConfig
from sublayer.training.crew import Crew, choose_threads
from sublayer.training.device import autocast
from sublayer.training.example import Example, example
from sublayer.training.memory import NotRehearsed, training_memory

SECONDS = 4.0
"""How long a step may take that is measured; of a larger one, a smaller one like it is measured."""

STEPS = 5
"""Steps measured, whose median counts; one before them does not."""

PROMPT, TOKENS = 64, 96
"""Tokens behind which decoding is measured, and how many at most are."""

UTILISATION = 0.3
"""The share of the speed of matrix products that a step is taken to reach before it is measured."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The speed on this machine.

    Attributes:
        matmul_flops: FLOPs a second of the product of two large matrices in the run's dtype, on all cores.
        training_tokens_per_second: None for a model alone.
        training_seconds: of all steps, without evaluation and saving.
        training_utilisation: FLOPs of training with every query-key pair (`FlopsPerToken.training`) done in a second,
            over `matmul_flops`.
        training_measured: on what; empty when it was the whole step.
        decoding_tokens_per_second: of one text; None when the model does not decode.
        decoding_measured: on what; empty when it was the whole model.
    """

    matmul_flops: float
    training_tokens_per_second: float | None
    training_seconds: float | None
    training_utilisation: float | None
    training_measured: str
    decoding_tokens_per_second: float | None
    decoding_measured: str


@dataclass(frozen=True, slots=True)
class _Size:
    """What of a step is measured."""

    n_layers: int
    n_rows: int
    rows: RowShape

    def flops(self, costs: ModelCost) -> float:
        """Of the forward and backward passes over its rows."""
        return (
            self.n_rows * self.rows.length * costs.training_flops(self.rows.length, "all", self.rows.source_length or 0)
        )

    def shorter(self) -> "_Size":
        source = self.rows.source_length
        rows = replace(self.rows, length=self.rows.length // 2, source_length=source and max(1, source // 2))
        return replace(self, rows=rows)


def calibrate(
    model: ModelConfig, run: RunConfig | None, costs: ModelCost, device: torch.device, dtype: torch.dtype
) -> Measured:
    """Measure the speed of training (of a run) and of decoding.

    What is too large for this machine's memory, or takes longer than SECONDS, is measured with fewer layers, rows or
    tokens, and scaled by its FLOPs.

    Args:
        model: with its vocabulary's size.
        run: that trains it; None for a model alone.
        costs: of the model.
        device, dtype: where, and the dtype of matrix products.
    """
    peak = matmul_flops(device, dtype)
    rate = seconds = utilisation = None
    on = ""
    if run is not None:
        step, on = _training(model, run, costs, device, dtype, peak)
        whole = _Size(model.n_layers, run.training.batch_size, run.data.row_shape())
        rate, seconds = whole.n_rows * whole.rows.places / step, step * run.training.steps
        utilisation = whole.flops(costs) / step / peak
    decoding, decoding_on = None, ""
    if model.stack != "encoder" and model.head.by_token and not model.cache_exact().reason:
        decoding, decoding_on = _decoding(model, costs, device, dtype)
    return Measured(peak, rate, seconds, utilisation, on, decoding, decoding_on)


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs a second of the fastest of a few products of square matrices."""
    best = 0.0
    for size in (1024, 2048):
        left, right = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
        times = [_seconds(lambda left=left, right=right: left @ right, device) for _ in range(STEPS)]  # type: ignore[misc]
        best = max(best, 2 * size**3 / min(times))
    return best


def _training(
    model: ModelConfig, run: RunConfig, costs: ModelCost, device: torch.device, dtype: torch.dtype, peak: float
) -> tuple[float, str]:
    """Seconds of a training step, and on what it was measured."""
    training = run.training
    whole = _Size(model.n_layers, training.batch_size // training.accumulation, run.data.row_shape())
    size = _affordable(model, run, whole, costs, device, dtype, peak)
    forward, update = _step(_cut(model, size.n_layers), training, size, device, dtype)
    if size.n_layers < model.n_layers:
        fewer = replace(size, n_layers=max(1, size.n_layers // 2))
        less, less_update = _step(_cut(model, fewer.n_layers), training, fewer, device, dtype)
        small, smaller = (cost(ghost(_cut(model, each.n_layers))) for each in (size, fewer))
        flops = [size.flops(each) for each in (costs, small, smaller)]
        forward = _extended(forward, less, *flops)
        update = _extended(update, less_update, *(each.parameters.total for each in (costs, small, smaller)))
    ratio = whole.flops(costs) / size.flops(costs)
    on = [
        f"{part:,} of {all_of:,} {name}"
        for name, part, all_of in (
            ("layers", size.n_layers, whole.n_layers),
            ("rows", size.n_rows, whole.n_rows),
            ("tokens a row", size.rows.places, whole.rows.places),
        )
        if part < all_of
    ]
    return training.accumulation * ratio * forward + update, ", ".join(on)


def _affordable(
    model: ModelConfig,
    run: RunConfig,
    whole: _Size,
    costs: ModelCost,
    device: torch.device,
    dtype: torch.dtype,
    peak: float,
) -> _Size:
    """The most of a step that fits into memory and time."""
    training, size = run.training, whole
    room = 0.6 * free_bytes(device)

    def fits(size: _Size) -> bool:
        small = costs if size.n_layers == model.n_layers else cost(ghost(_cut(model, size.n_layers)))
        if size.flops(small) > SECONDS * UTILISATION * peak:
            return False
        asked = training.model_copy(update={"batch_size": size.n_rows, "accumulation": 1})
        try:
            return training_memory(_cut(model, size.n_layers), asked, size.rows, device, dtype).peak < room
        except NotRehearsed:
            return 16 * small.parameters.total < room  # weights, gradients and two means, at the least

    threads = choose_threads(training.threads, whole.n_rows, device, training.compile)
    cycle = max(1, len(model.layers))
    while not fits(size):
        if size.n_rows > threads:
            size = replace(size, n_rows=max(threads, size.n_rows // 4))
        elif size.n_layers > 2 * cycle:
            size = replace(size, n_layers=max(2 * cycle, size.n_layers // 4))
        elif size.rows.length > 128:
            size = size.shorter()
        elif size.n_rows > 1:
            size = replace(size, n_rows=1)
        else:
            break  # the least that there is
    return size


def _step(
    model: ModelConfig, config: TrainingConfig, size: _Size, device: torch.device, dtype: torch.dtype
) -> tuple[float, float]:
    """Seconds of the forward and backward passes over `size.n_rows` rows, and of the update."""
    transformer = _filled(model, device).train()
    forward = torch.compile(transformer) if config.compile else transformer
    optimizer = config.optimizer.build(transformer)
    parameters = list(transformer.parameters())
    threads = min(size.n_rows, choose_threads(config.threads, size.n_rows, device, config.compile))
    rows = [size.n_rows // threads + (thread < size.n_rows % threads) for thread in range(threads)]
    shares = [example(size.rows, n, lambda n, length: _random(model, n, length, device)) for n in rows]

    def work(share: Example) -> tuple[Tensor | None, ...]:
        with autocast(device, dtype):
            out = forward(share.tokens_BT, share.layout, source=share.source, targets=share.targets)
        return torch.autograd.grad(out.loss, parameters, allow_unused=True)

    def passes() -> None:
        for gradients in crew.map_training(work, shares):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step(0.0, crew.together)
        transformer.zero_grad()

    times: list[tuple[float, float]] = []
    with Crew(threads) as crew:
        for _ in range(1 + STEPS):
            times.append((_seconds(passes, device), _seconds(update, device)))
            if sum(map(sum, times)) > (1 + STEPS) * SECONDS:
                break
    counted = times[1:] or times
    return statistics.median(first for first, _ in counted), statistics.median(second for _, second in counted)


def _decoding(model: ModelConfig, costs: ModelCost, device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """Tokens a second of one text, and on what they were measured."""
    n_layers = model.n_layers
    while n_layers > 1 and 4 * cost(ghost(_cut(model, n_layers))).parameters.total > 0.4 * free_bytes(device):
        n_layers //= 2
    seconds = _token(_cut(model, n_layers), device, dtype)
    if n_layers == model.n_layers:
        return 1 / seconds, ""
    fewer = max(1, n_layers // 2)
    less = _token(_cut(model, fewer), device, dtype)
    flops = [each.decoding_flops(PROMPT) for each in (costs, *(cost(ghost(_cut(model, n))) for n in (n_layers, fewer)))]
    return 1 / _extended(seconds, less, *flops), f"{n_layers:,} of {model.n_layers:,} layers"


@torch.inference_mode()
def _token(model: ModelConfig, device: torch.device, dtype: torch.dtype) -> float:
    """Seconds to decode one token, as `sublayer generate` does."""
    transformer = _filled(model, device).to(dtype).eval().pack()
    limit = model.cache_exact().length or PROMPT + TOKENS
    n_prompt = max(1, min(PROMPT, limit - TOKENS))
    state = transformer.init_state(1, min(limit, n_prompt + TOKENS))
    prompt = _random(model, 1, n_prompt, device)
    source = prompt if model.stack == "encoder_decoder" else None
    logits = transformer(prompt, source=source, state=state).logits
    times = []
    for _ in range(min(TOKENS, limit - n_prompt)):
        assert logits is not None
        token_B1 = logits[:, -1:].argmax(-1)
        began = time.perf_counter()
        logits = transformer(token_B1, state=state).logits
        _wait(device)
        times.append(time.perf_counter() - began)
        if sum(times) > SECONDS:
            break
    return statistics.median(times[1:] or times)


def _cut(model: ModelConfig, n_layers: int) -> ModelConfig:
    """The same model with fewer layers, of an encoder in proportion."""
    if n_layers == model.n_layers:
        return model
    update: dict[str, Any] = {"n_layers": n_layers}
    if "n_layers" in model.encoder:
        depth = max(1, round(model.encoder["n_layers"] * n_layers / model.n_layers))
        update["encoder"] = {**model.encoder, "n_layers": depth}
    return model.model_copy(update=update)


def _filled(model: ModelConfig, device: torch.device) -> Transformer:
    """The model with weights that are numbers; to draw those of a large one would take longer than to measure it."""
    hollow = ghost(model)
    if any(True for _ in hollow.buffers()):  # of a user's part, which only its constructor knows
        return Transformer(model).to(device)
    filled = hollow.to_empty(device=device)
    with torch.no_grad():
        for parameter in filled.parameters():
            parameter.fill_(0.01)
    return filled


def _random(model: ModelConfig, n_rows: int, length: int, device: torch.device) -> Tensor:
    """Tokens [B, T]; torch's own generator stays as it is."""
    assert model.vocab_size is not None
    generator = torch.Generator().manual_seed(0)
    return torch.randint(model.vocab_size, (n_rows, length), generator=generator).to(device)


def _extended(large: float, small: float, *amounts: float) -> float:
    """What a whole takes, given what two parts of it take, of which `large` is the larger.

    Args:
        amounts: of the whole, of the large part and of the small one.
    """
    whole, of_large, of_small = amounts
    if of_large == of_small:
        return large * whole / of_large
    # Noise may have the larger part be the faster one; then it is scaled as it is.
    slope = (large - small) / (of_large - of_small)
    return large + slope * (whole - of_large) if slope > 0 else large * whole / of_large


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def free_bytes(device: torch.device) -> int:
    """Memory that is free on the device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    table = Path("/proc/meminfo")
    if table.is_file():
        available = next(line for line in table.read_text().splitlines() if line.startswith("MemAvailable"))
        return 1024 * int(available.split()[1])
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
