"""The counts equal a trace through the reference kernel, and the memory what is allocated, for any composition."""

import math

import pytest
import torch
from hypothesis import strategies as st
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from sublayer.model import ModelConfig, Transformer
from sublayer.model.cost import cost
from sublayer.model.ghost import ghost
from tests.properties.composition import compositions, law, random_tokens
from tests.properties.test_kernels import with_kernel


def convolution_backward(out: torch.Size, x: torch.Size, weight: torch.Size, *options: object, **_: object) -> int:
    """FLOPs of a convolution's backward pass, the gradients of its input and weights (PyTorch's own count takes each
    channel of a depthwise one to read all channels)."""
    each = 2 * out[0] * math.prod(out[2:]) * math.prod(weight)
    return each * sum(options[-1][:2])


@law(examples=80, composition=compositions(dropout=True), rows=st.integers(1, 3), length=st.integers(1, 40))
def test_flops_equal_a_trace_of_a_training_step(composition: ModelConfig, rows: int, length: int) -> None:
    model = Transformer(with_kernel(composition, "reference"))
    tokens = random_tokens(1, rows, length)
    counts = {torch.ops.aten.convolution_backward: convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=counts) as counter:
        out = model(tokens, targets=random_tokens(2, rows, length))
        forward = counter.get_total_flops()
        out.loss.backward()
    counted, n_tokens = cost(ghost(composition)), rows * length
    assert counter.get_total_flops() == pytest.approx(counted.training_flops(length) * n_tokens, rel=0.02)
    # The loss computes the output matrix's gradients with its value.
    head = 2 * composition.d_model * composition.vocab_size
    assert forward == pytest.approx((counted.forward_flops(length) + 2 * head) * n_tokens, rel=0.02)
    assert counted.forward_flops(length, "visible") <= counted.forward_flops(length)


@law(examples=60, composition=compositions())
def test_parameters_are_the_model_s(composition: ModelConfig) -> None:
    model, counted = Transformer(composition), cost(ghost(composition)).parameters
    assert counted.total == sum(parameter.numel() for parameter in model.parameters()) == counted.active
    assert counted.non_embedding == model.n_parameters(embeddings=False)


@law(examples=60, composition=compositions(stack="decoder"), rows=st.integers(1, 3), length=st.integers(1, 48))
def test_a_state_on_the_meta_device_is_as_large_as_the_real_one(
    composition: ModelConfig, rows: int, length: int
) -> None:
    held = Transformer(composition).init_state(rows, length, dtype=torch.bfloat16)
    memories = [memory for layer in held.layers for memory in layer if memory is not None]
    owners = [*memories, *(slots for both in held._pinned.values() for slots in both)]
    tensors = [value for owner in owners for value in tree_leaves(vars(owner))]
    real = sum(value.untyped_storage().nbytes() for value in tensors if isinstance(value, torch.Tensor))
    real += held.length_B.nbytes + held._position_BL.nbytes
    assert ghost(composition).init_state(rows, length, dtype=torch.bfloat16).n_bytes == real
