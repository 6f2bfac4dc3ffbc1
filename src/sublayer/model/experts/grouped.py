"""The product of rows with the matrix of the group that each row is in.

On a GPU it is PyTorch's grouped product, which waits for no number to come back from there.  That wants strides of 16
bytes, one dtype, gradients that are not expanded and offsets in int32, and knows neither autocast nor what a compiler
asks for; here it is an operation that does.  On a CPU, where PyTorch goes through the groups as well, so does this, in
any dtype and with any strides, and casts each matrix as its turn comes: a copy in bfloat16 of the weights of all groups
would be written to memory and read back (benchmarks/experts.py).

Shapes: M rows, E groups, I inputs, O outputs.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

FEW = 16
"""Rows up to which, beside a CPU, each is multiplied with a copy of its matrix: there a grouped product would mostly
start and end."""


def grouped_linear(x_MI: Tensor, weight_EOI: Tensor, count_E: Tensor) -> Tensor:
    """x Wᵀ with each row's own W, [M, O]; in autocast's dtype as a linear layer's, else in the wider of the two.

    Args:
        x_MI: rows sorted by group.
        weight_EOI: a matrix for each group.
        count_E: rows of each group (int64); they add up to M.
    """
    dtype = linear_dtype(x_MI, weight_EOI)
    weight_EOI = weight_EOI if x_MI.device.type == "cpu" else weight_EOI.to(dtype)
    y_MO: Tensor = _grouped(x_MI.to(dtype), weight_EOI, count_E)
    return y_MO


def linear_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """What a linear layer computes them in: autocast's dtype, but for float64; else the wider of the two."""
    kind = x.device.type
    wide = torch.float64 in (x.dtype, weight.dtype)
    if kind != "meta" and torch.is_autocast_enabled(kind) and not wide:
        return torch.get_autocast_dtype(kind)
    return torch.promote_types(x.dtype, weight.dtype)


def looped_linear(x_MI: Tensor, weight_EOI: Tensor, count_E: Tensor) -> Tensor:
    """The same group by group, in plain PyTorch: the reference."""
    rows = torch.split(x_MI, count_E.tolist())
    return torch.cat([part @ weight.T for part, weight in zip(rows, weight_EOI, strict=True)])


@torch.library.custom_op("sublayer::grouped_linear", mutates_args=())
def _grouped(x_MI: Tensor, weight_EOI: Tensor, count_E: Tensor) -> Tensor:
    """In the dtype of `x`."""
    n_rows = len(x_MI)
    if x_MI.device.type != "cpu" and n_rows <= FEW:
        group_M = torch.arange(len(count_E), device=x_MI.device).repeat_interleave(count_E, output_size=n_rows)
        return torch.bmm(weight_EOI[group_M], x_MI[:, :, None])[:, :, 0]
    if _at_once(x_MI, weight_EOI):
        # The product wants rows or columns without gaps.
        solid = 1 in weight_EOI.stride()[1:]
        matrices = weight_EOI if solid else weight_EOI.contiguous()
        return F.grouped_mm(x_MI.contiguous(), matrices.mT, offs=_ends(count_E))
    return _in_turn(x_MI, weight_EOI, count_E.tolist())


@_grouped.register_fake
def _(x_MI: Tensor, weight_EOI: Tensor, count_E: Tensor) -> Tensor:
    return x_MI.new_empty(x_MI.shape[0], weight_EOI.shape[1])


@torch.library.custom_op("sublayer::grouped_outer", mutates_args=())
def _outer(gradient_MO: Tensor, x_MI: Tensor, count_E: Tensor, dtype: torch.dtype) -> Tensor:
    """Σ over each group's rows of gradient ⊗ x, [E, O, I]; 0 for a group without rows."""
    if _at_once(gradient_MO, x_MI):
        return F.grouped_mm(gradient_MO.contiguous().T, x_MI.contiguous(), offs=_ends(count_E)).to(dtype)
    return _sums_in_turn(gradient_MO, x_MI, count_E.tolist(), dtype)


@_outer.register_fake
def _(gradient_MO: Tensor, x_MI: Tensor, count_E: Tensor, dtype: torch.dtype) -> Tensor:
    return x_MI.new_empty(count_E.shape[0], gradient_MO.shape[1], x_MI.shape[1], dtype=dtype)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient_MO: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    x_MI, weight_EOI, count_E = ctx.saved_tensors
    gradient_MO = gradient_MO.contiguous()  # that of a sum is expanded
    of_x = _grouped(gradient_MO, weight_EOI.mT, count_E) if ctx.needs_input_grad[0] else None
    of_weight = _outer(gradient_MO, x_MI, count_E, weight_EOI.dtype) if ctx.needs_input_grad[1] else None
    return of_x, of_weight, None


_grouped.register_autograd(_backward, setup_context=_keep)


def _at_once(*factors: Tensor) -> bool:
    """Whether PyTorch's grouped product takes them: beside a CPU, with sizes that are multiples of 16 bytes."""
    return all(
        each.device.type != "cpu"
        and each.dtype in (torch.float32, torch.float16, torch.bfloat16)
        and all(size * each.element_size() % 16 == 0 for size in each.shape[-(each.dim() - 1) :])
        for each in factors
    )


def _ends(count_E: Tensor) -> Tensor:
    return count_E.cumsum(0, dtype=torch.int32)


BLOCK = 16
"""Rows of half precision are multiplied in multiples of this on a CPU.  For each number of rows that it meets, oneDNN
compiles a kernel, which takes as long as such a product, and groups have other numbers of rows in each batch."""


def _in_turn(x_MI: Tensor, weight_EOI: Tensor, counts: Sequence[int]) -> Tensor:
    """`_grouped`, group by group."""
    n_rows = len(x_MI)
    y_MO = x_MI.new_empty(n_rows, weight_EOI.shape[1])
    block = block_rows(x_MI.dtype)
    cast_OI = _scratch(weight_EOI[0], x_MI.dtype)
    begin = 0
    for weight_OI, count in zip(weight_EOI, counts, strict=True):
        if not count:
            continue
        if cast_OI is not None:
            weight_OI = cast_OI.copy_(weight_OI)
        taken = -(-count // block) * block
        if begin + taken <= n_rows:  # rows of groups to come, whose own products replace these
            torch.mm(x_MI[begin : begin + taken], weight_OI.T, out=y_MO[begin : begin + taken])
        elif taken <= n_rows:
            y_MO[begin : begin + count] = (x_MI[n_rows - taken :] @ weight_OI.T)[taken - (n_rows - begin) :][:count]
        else:
            torch.mm(x_MI[begin : begin + count], weight_OI.T, out=y_MO[begin : begin + count])
        begin += count
    return y_MO


def _sums_in_turn(gradient_MO: Tensor, x_MI: Tensor, counts: Sequence[int], dtype: torch.dtype) -> Tensor:
    """`_outer`, group by group."""
    n_out, n_in = gradient_MO.shape[1], x_MI.shape[1]
    sum_EOI = x_MI.new_empty(len(counts), n_out, n_in, dtype=dtype)
    block = block_rows(x_MI.dtype)
    cast_OI = _scratch(sum_EOI[0], x_MI.dtype)
    last = [torch.zeros(block, each.shape[1], dtype=each.dtype) for each in (gradient_MO, x_MI)]
    begin = 0
    for sum_OI, count in zip(sum_EOI, counts, strict=True):
        product_OI = sum_OI if cast_OI is None else cast_OI
        middle, end = begin + count - count % block, begin + count
        if middle > begin:
            torch.mm(gradient_MO[begin:middle].T, x_MI[begin:middle], out=product_OI)
            if cast_OI is not None:
                sum_OI.copy_(product_OI)
        else:
            sum_OI.zero_()
        if end > middle:  # the rest, with zeros below
            for rows, part in zip(last, (gradient_MO, x_MI), strict=True):
                rows[: end - middle] = part[middle:end]
                rows[end - middle :] = 0
            sum_OI.add_(torch.mm(last[0].T, last[1]))
        begin = end
    return sum_EOI


def block_rows(dtype: torch.dtype) -> int:
    """Of how many rows a product on a CPU should have a multiple."""
    return BLOCK if dtype in (torch.bfloat16, torch.float16) else 1


def _scratch(like: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Room for a matrix in another dtype, laid out as it is; None where it has this one."""
    return None if like.dtype == dtype else torch.empty_like(like, dtype=dtype)
