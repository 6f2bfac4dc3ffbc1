"""The memory that training takes at its highest point, estimated without allocating the model.

A step is rehearsed (`training/rehearsal.py`): the model's own code runs forward and backward on tensors without memory,
and so does the optimizer.  What runs side by side is added up, and then what else a process holds: freed memory that
its allocator keeps, and the libraries' own.

Shapes: B batch, T tokens, N = B·T, D d_model, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sublayer.data import RowShape
from sublayer.model import ModelConfig, Transformer
from sublayer.model.ghost import ghost
from sublayer.model.loss import CHUNK_BYTES
from sublayer.training.config import TrainingConfig
from sublayer.training.crew import choose_threads
from sublayer.training.device import autocast
from sublayer.training.example import example
from sublayer.training.rehearsal import Rehearsal

MAPPED = 32 * 2**20
"""Bytes from which on the C library always gives a block back when it is freed (glibc's largest mmap threshold)."""

FRAGMENTED = 1.55
"""What a thread's part of the C library's memory grows to, over what stands in it at the highest point.  Measured with
glibc 2.36, whose parts for threads are heaps of 64 MiB, in benchmarks/check.py."""

LIBRARIES = 100 * 10**6
"""Bytes that the first steps load on a CPU: kernels compiled on the spot, their work areas, code not touched before."""

COPIES = 2
"""Copies of weights and optimizer state that stand in memory while a training state is written."""

ROOM = (0.4, 0.8)
"""Of what the first step leaves behind: a block of up to the first share is found in it, one beyond the second is not,
and between them it depends on what lies where."""


class NotRehearsed(RuntimeError):
    """A model whose memory cannot be estimated; the message is what PyTorch said."""


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Bytes at the highest point of training, above what the process holds after its imports; the parts add up to it.

    Attributes:
        weights: in float32.
        optimizer: what it remembers of them.
        gradients: the sum's, and those of each thread.
        activations: kept from the forward to the backward pass in each thread, and what else computing holds.
        allocator: freed memory that the C library keeps; 0 on a GPU.
        libraries: what the first steps load; 0 on a GPU.
        saving: copies made while a training state is written, as far as that is the highest point.
        peak: all of it.
        sequences: rows that are worked on at a time.
        threads: that divide them; one where dropout's random numbers are drawn in a fixed order.
    """

    weights: int
    optimizer: int
    gradients: int
    activations: int
    allocator: int
    libraries: int
    saving: int
    peak: int
    sequences: int
    threads: int


@dataclass(frozen=True, slots=True)
class _Pass:
    """Bytes of a forward and backward pass at its highest point, and of the tensors in it below MAPPED."""

    peak: int
    small: int


def training_memory(
    model: ModelConfig,
    training: TrainingConfig,
    rows: RowShape,
    device: torch.device,
    dtype: torch.dtype,
) -> TrainingMemory:
    """The memory of training `model`.

    Args:
        model: with its vocabulary's size.
        training: how it is trained.
        rows: what it is trained on.
        device, dtype: as for training.

    Raises:
        NotRehearsed: when a part of the model looks at numbers, which a rehearsal does not have.
        ConfigError: when several threads are asked for where only one can be.
    """
    n_rows = training.batch_size // training.accumulation
    threads = min(n_rows, choose_threads(training.threads, n_rows, device, training.compile))
    rehearsal = Rehearsal(device, small=MAPPED)
    hollow = ghost(model).train()
    rehearsal.inhabit(hollow)
    weights, small_weights = rehearsal.held, rehearsal.held_small
    try:
        with rehearsal:
            optimizer, updating = _update(rehearsal, hollow, training)
            share = _share(rehearsal, hollow, -(-n_rows // threads), rows, dtype)
    except (RuntimeError, TypeError) as error:
        raise NotRehearsed((str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")) from error

    # Shares that draw random numbers are computed one after the other (`Crew.map_training`).
    abreast = 1 if rehearsal.draws else threads
    summed = threads * training.accumulation > abreast
    gradients = weights * (abreast + summed)  # each as large as its weight
    # A loss of all shares' sums keeps each until it goes backward.
    kept = threads if hollow.scopes() else abreast
    activations = max(kept * (share.peak - weights), updating - (gradients - weights))
    allocator = libraries = saving = 0
    if device.type == "cpu":
        libraries = LIBRARIES
        first = share.small + small_weights
        if abreast > 1:
            # The first step's shares are computed one after the other, by a thread that computes none later.
            allocator = int(first + (FRAGMENTED - 1) * abreast * (share.small + small_weights * summed))
        # Nothing large is left of the step, but what is small is still with the allocator, where a copy may fit in.
        state = weights + optimizer
        saving = max(0, COPIES * state - (gradients + activations) + abreast * share.small)
        if abreast > 1:
            saving = int(saving * _missing(state / first))
    step = weights + optimizer + gradients + activations
    return TrainingMemory(
        weights=weights,
        optimizer=optimizer,
        gradients=gradients,
        activations=activations,
        allocator=allocator,
        libraries=libraries,
        saving=saving,
        peak=step + allocator + libraries + saving,
        sequences=n_rows,
        threads=abreast,
    )


def _missing(size: float) -> float:
    """How much of a block must be asked for anew, given its size as a share of what lies free."""
    found, lost = ROOM
    return min(1.0, max(0.0, (size - found) / (lost - found)))


def _update(rehearsal: Rehearsal, model: nn.Module, training: TrainingConfig) -> tuple[int, int]:
    """Bytes that the optimizer remembers, and those that a step of it holds besides."""
    optimizer = training.optimizer.build(model)
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)
    before = rehearsal.held
    rehearsal.mark()
    optimizer.step(1.0)
    remembered, updating = rehearsal.held - before, rehearsal.peak - rehearsal.held
    model.zero_grad()
    return remembered, updating


def _share(rehearsal: Rehearsal, model: Transformer, n_rows: int, rows: RowShape, dtype: torch.dtype) -> _Pass:
    """What one thread holds at the highest point of a forward and backward pass, its gradients among it."""
    rehearsal.mark()
    held, held_small = rehearsal.held, rehearsal.held_small
    given = example(rows, n_rows, lambda *shape: torch.empty(shape, dtype=torch.int64, device=rehearsal.device))
    if model.config.head.by_token:
        with autocast(rehearsal.device, dtype):
            out = model(given.tokens_BT, given.layout, source=given.source, logits_at=given.tokens_BT[:, 0])
        assert out.logits is not None
        losses = _Loss(rehearsal, n_rows * rows.length, model.config.d_model, out.logits.shape[-1], dtype)
        out.logits.register_hook(losses.backward)
        score = out.logits.sum()
    else:
        with autocast(rehearsal.device, dtype):
            score = model(given.tokens_BT, given.layout, targets=given.targets).loss
    torch.autograd.grad(score, list(model.parameters()), allow_unused=True)
    return _Pass(rehearsal.peak - held, rehearsal.peak_small - held_small)


class _Loss:
    """What `cross_entropy` holds, in place of it: a rehearsal of its many chunks, all alike, would take long."""

    def __init__(self, rehearsal: Rehearsal, n_tokens: int, width: int, vocab_size: int, dtype: torch.dtype) -> None:
        self._shapes = [((n_tokens, width), dtype), ((vocab_size, width), torch.float32)]
        self._device = rehearsal.device
        self._gradients = self._new()
        cast = torch.empty(vocab_size, width, dtype=dtype, device=self._device) if dtype != torch.float32 else None
        n_rows = min(n_tokens, max(1, CHUNK_BYTES // (4 * vocab_size)))
        # A chunk's logits, the logarithms of their softmax, and the latter of the chunk before.
        logits = torch.empty(2 + (n_rows < n_tokens), n_rows, vocab_size, device=self._device)
        del cast, logits

    def backward(self, gradient: Tensor) -> None:
        """The gradients were computed with the loss; they are multiplied by a number, and the first ones let go."""
        self._new()
        self._gradients.clear()

    def _new(self) -> list[Tensor]:
        return [torch.empty(shape, dtype=dtype, device=self._device) for shape, dtype in self._shapes]
