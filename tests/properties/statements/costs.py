"""What is counted equals a trace through the reference kernel, and the memory what is allocated."""

import math
import random

import pytest
import torch
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from sublayer.model import ModelConfig, Transformer
from sublayer.model.cost import cost
from sublayer.model.ghost import ghost
from tests.properties.composition import mixtures, random_tokens
from tests.properties.statement import Subject, alone, decodes, statement
from tests.properties.statements.kernels import with_kernel


def convolution_backward(out: torch.Size, x: torch.Size, weight: torch.Size, *options: object, **_: object) -> int:
    """FLOPs of a convolution's backward pass, the gradients of its input and weights (PyTorch's own count takes each
    channel of a depthwise one to read all channels)."""
    each = 2 * out[0] * math.prod(out[2:]) * math.prod(weight)
    return each * sum(options[-1][:2])


def grouped_linear(x: torch.Size, weight: torch.Size, *_: object, **__: object) -> int:
    """FLOPs of rows times the matrices of their groups."""
    return 2 * math.prod(x) * weight[1]


def grouped_outer(gradient: torch.Size, x: torch.Size, *_: object, **__: object) -> int:
    """FLOPs of the gradient of these matrices."""
    return 2 * math.prod(gradient) * x[1]


COUNTS = {
    torch.ops.aten.convolution_backward: convolution_backward,
    torch.ops.sublayer.grouped_linear: grouped_linear,
    torch.ops.sublayer.grouped_outer: grouped_outer,
}


def as_counted(config: ModelConfig) -> bool:
    """Whether each token goes to as many experts as is counted: not only on average, and with no noise on the way."""
    return alone(config) and all(
        each.router.chooses == "token" and each.router.kind_name() != "noisy_top_k" for each in mixtures(config)
    )


@statement(as_counted, share=0.1)
def flops_equal_a_trace_of_a_training_step(subject: Subject, dice: random.Random) -> None:
    config, n_rows, length = subject.config, dice.randint(1, 3), dice.randint(1, 30)
    source_length = dice.randint(1, 9) if subject.paired else 0
    model = Transformer(with_kernel(config, "reference")).eval()
    read = subject.source(n_rows, source_length)
    with FlopCounterMode(display=False, custom_mapping=COUNTS) as counter:
        out = model(random_tokens(1, n_rows, length), source=read, targets=subject.targets(n_rows, length))
        forward = counter.get_total_flops()
        out.loss.backward()
    counted, n_tokens = cost(ghost(config)), n_rows * length
    # A head over classes works once a row, which is not counted.
    of_rows = sum(2 * p.numel() for p in model.head.parameters() if p.dim() > 1) * n_rows
    beside = 0 if config.head.by_token else of_rows
    training = counted.training_flops(length, source_length=source_length) * n_tokens + 3 * beside
    assert counter.get_total_flops() == pytest.approx(training, rel=0.02)
    # The loss over tokens computes the output matrix's gradients with its value.
    beside += 4 * config.d_model * (config.vocab_size or 0) * n_tokens if config.head.by_token else 0
    assert forward == pytest.approx(
        counted.forward_flops(length, source_length=source_length) * n_tokens + beside, rel=0.02
    )
    visible = counted.forward_flops(length, "visible", source_length)
    assert visible <= counted.forward_flops(length, source_length=source_length)


@statement(lambda config: decodes(config) and not config.cache_exact().reason, share=0.3)
def a_state_on_the_meta_device_is_as_large_as_the_real_one(subject: Subject, dice: random.Random) -> None:
    exact = subject.config.cache_exact().length
    n_rows, length = dice.randint(1, 3), dice.randint(1, min(48, exact or 48))
    held = Transformer(subject.config).init_state(n_rows, length, dtype=torch.bfloat16)
    memories = [memory for layer in held.layers for memory in layer if memory is not None]
    owners = [*memories, *(slots for both in held._pinned.values() for slots in both)]
    tensors = [value for owner in owners for value in tree_leaves(vars(owner))]
    real = sum(value.untyped_storage().nbytes() for value in tensors if isinstance(value, torch.Tensor))
    real += held.length_B.nbytes + held._position_BL.nbytes
    assert ghost(subject.config).init_state(n_rows, length, dtype=torch.bfloat16).n_bytes == real
