"""Tokens through their experts and back in one operation, for training on a CPU.

Expert by expert: its tokens' rows are gathered, multiplied, weighted and put where they belong, in memory that every
expert uses in turn and that so stays in the cache.  A row is weighted before the last matrix and not behind it, and so
the gradient of its weight comes from hidden values and no expert's output is kept (Guo et al. 2025, SonicMoE).  The
reference is `dispatched` with the bank's `forward`.

Shapes: N tokens, M assignments sorted by expert, E experts, D d_model, F d_ff, G = F, or 2·F of gate and up together,
P rows of one expert, in whole blocks.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sublayer.model.activation import ACTIVATIONS, DERIVATIVES
from sublayer.model.experts.grouped import block_rows


def summed_rows(y_MD: Tensor, place_M: Tensor, begin_N: Tensor, weight_M: Tensor | None = None) -> Tensor:
    """Σ over each token's rows, times their weights; added in float32 at least.

    Args:
        y_MD: rows in any order.
        place_M: where each token's stand, token by token.
        begin_N: where those of each token begin in `place_M`.
        weight_M: of each in the order of `place_M`, in the dtype of the rows.
    """
    y_ND: Tensor = torch.embedding_bag(y_MD, place_M, begin_N, mode=0, per_sample_weights=weight_M)[0]
    return y_ND


@torch.library.custom_op("sublayer::fused_experts", mutates_args=())
def fused_experts(
    x_ND: Tensor,
    weight_M: Tensor,
    gate_EFD: Tensor | None,
    up_EFD: Tensor,
    down_EDF: Tensor,
    activation: str,
    token_M: Tensor,
    place_M: Tensor,
    begin_N: Tensor,
    count_E: Tensor,
) -> tuple[Tensor, Tensor]:
    """Σ over a token's assignments of weight · expert(x) [N, D], in the dtype of x; and what the backward pass needs.

    Args:
        x_ND: the tokens, in the dtype to compute in.
        weight_M: of each assignment, sorted by token.
        gate_EFD, up_EFD, down_EDF: the experts' matrices; without a gate, dense experts.
        activation: by name.
        token_M, place_M, begin_N, count_E: as in `Order`.
    """
    n_rows, n_ff, block = len(token_M), up_EFD.shape[1], block_rows(x_ND.dtype)
    act, scale_M1 = ACTIVATIONS[activation], _by_place(weight_M, place_M)  # type: ignore[index]
    # A block's last rows fall into the next expert's, which come later and replace them.
    inner_MG = x_ND.new_empty(n_rows + block - 1, _width(gate_EFD, up_EFD))
    y_MD = x_ND.new_empty(n_rows + block - 1, x_ND.shape[1])
    turns = list(_turns(count_E, block))
    rows_PD, hidden_PF = x_ND.new_empty(_most(turns), x_ND.shape[1]), x_ND.new_empty(_most(turns), n_ff)
    matrices = _Matrices(x_ND, gate_EFD, up_EFD, down_EDF)
    for expert, begin, end, padded in turns:
        into_GD, out_DF = matrices.of(expert)
        inner_PG = inner_MG[begin : begin + padded]
        torch.mm(_gathered(x_ND, token_M[begin:end], rows_PD[:padded]), into_GD.T, out=inner_PG)
        inner, hidden = inner_PG[: end - begin], hidden_PF[: end - begin]
        active = act(inner[:, :n_ff])
        if gate_EFD is not None:
            active = torch.mul(active, inner[:, n_ff:], out=hidden)
        torch.mul(active, scale_M1[begin:end], out=hidden)
        torch.mm(hidden_PF[:padded], out_DF.T, out=y_MD[begin : begin + padded])
    return summed_rows(y_MD, place_M, begin_N), inner_MG


@fused_experts.register_fake
def _(
    x_ND: Tensor,
    weight_M: Tensor,
    gate_EFD: Tensor | None,
    up_EFD: Tensor,
    down_EDF: Tensor,
    activation: str,
    token_M: Tensor,
    place_M: Tensor,
    begin_N: Tensor,
    count_E: Tensor,
) -> tuple[Tensor, Tensor]:
    n_kept = token_M.shape[0] + block_rows(x_ND.dtype) - 1
    return x_ND.new_empty(x_ND.shape), x_ND.new_empty(n_kept, _width(gate_EFD, up_EFD))


@torch.library.custom_op("sublayer::fused_experts_backward", mutates_args=())
def _fused_backward(
    of_y_ND: Tensor,
    inner_MG: Tensor,
    x_ND: Tensor,
    weight_M: Tensor,
    gate_EFD: Tensor | None,
    up_EFD: Tensor,
    down_EDF: Tensor,
    activation: str,
    token_M: Tensor,
    place_M: Tensor,
    begin_N: Tensor,
    count_E: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, of the weights, and of the matrices, that of no gate being empty."""
    n_rows, d_model = len(token_M), x_ND.shape[1]
    n_ff, block = up_EFD.shape[1], block_rows(x_ND.dtype)
    act, derivative = ACTIVATIONS[activation], DERIVATIVES[activation]  # type: ignore[index]
    scale_M1 = _by_place(weight_M, place_M)
    of_scale_M = torch.empty_like(weight_M)
    of_x_MD = x_ND.new_empty(n_rows + block - 1, d_model)
    of_gate_EFD = up_EFD.new_empty(0) if gate_EFD is None else torch.empty_like(gate_EFD)
    of_up_EFD, of_down_EDF = torch.empty_like(up_EFD), torch.empty_like(down_EDF)
    turns = list(_turns(count_E, block))
    most = _most(turns)
    rows_PD, of_y_PD = x_ND.new_empty(most, d_model), x_ND.new_empty(most, d_model)
    hidden_PF, of_hidden_PF = x_ND.new_empty(most, n_ff), x_ND.new_empty(most, n_ff)
    of_inner_PG = x_ND.new_empty(most, inner_MG.shape[1])
    matrices = _Matrices(x_ND, gate_EFD, up_EFD, down_EDF)
    of_into_GD, of_out_DF = torch.empty_like(matrices.into_GD), torch.empty_like(matrices.out_DF)
    for expert, begin, end, padded in turns:
        n = end - begin
        into_GD, out_DF = matrices.of(expert)
        of_y = _gathered(of_y_ND, token_M[begin:end], of_y_PD[:padded])
        torch.mm(of_y, out_DF, out=of_hidden_PF[:padded])

        # What stands below an expert's own rows may be no number, and is left out or replaced by zeros.
        inner, scale, of_hidden = inner_MG[begin:end], scale_M1[begin:end], of_hidden_PF[:n]
        first, of_inner = inner[:, :n_ff], of_inner_PG[:n]
        active = act(first)
        hidden = active if gate_EFD is None else active * inner[:, n_ff:]
        torch.sum(hidden * of_hidden, dim=1, dtype=weight_M.dtype, out=of_scale_M[begin:end])
        torch.mul(hidden, scale, out=hidden_PF[:n])
        of_hidden.mul_(scale)
        if gate_EFD is not None:
            torch.mul(of_hidden, active, out=of_inner[:, n_ff:])
            of_hidden.mul_(inner[:, n_ff:])
        of_inner[:, :n_ff] = derivative(of_hidden, first)
        if n < padded:
            hidden_PF[n:padded] = 0
            of_inner_PG[n:padded] = 0

        torch.mm(of_y.T, hidden_PF[:padded], out=of_out_DF)
        of_down_EDF[expert] = of_out_DF
        torch.mm(of_inner_PG[:padded].T, _gathered(x_ND, token_M[begin:end], rows_PD[:padded]), out=of_into_GD)
        of_up_EFD[expert] = of_into_GD[-n_ff:]
        if gate_EFD is not None:
            of_gate_EFD[expert] = of_into_GD[:n_ff]
        torch.mm(of_inner_PG[:padded], into_GD, out=of_x_MD[begin : begin + padded])
    for expert in set(range(len(up_EFD))).difference(turn[0] for turn in turns):
        for of_matrix in (of_up_EFD, of_down_EDF) if gate_EFD is None else (of_gate_EFD, of_up_EFD, of_down_EDF):
            of_matrix[expert] = 0
    of_x_ND = summed_rows(of_x_MD, place_M, begin_N)
    return of_x_ND, of_scale_M.index_select(0, place_M), of_gate_EFD, of_up_EFD, of_down_EDF


@_fused_backward.register_fake
def _(
    of_y_ND: Tensor,
    inner_MG: Tensor,
    x_ND: Tensor,
    weight_M: Tensor,
    gate_EFD: Tensor | None,
    up_EFD: Tensor,
    down_EDF: Tensor,
    activation: str,
    token_M: Tensor,
    place_M: Tensor,
    begin_N: Tensor,
    count_E: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    of_gate_EFD = up_EFD.new_empty(0) if gate_EFD is None else torch.empty_like(gate_EFD)
    of_x_ND, of_weight_M = x_ND.new_empty(x_ND.shape), torch.empty_like(weight_M)
    return of_x_ND, of_weight_M, of_gate_EFD, torch.empty_like(up_EFD), torch.empty_like(down_EDF)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.activation, token_M, place_M, begin_N, count_E = inputs
    ctx.save_for_backward(output[1], *tensors, token_M, place_M, begin_N, count_E)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, of_y_ND: Tensor, _: None) -> tuple[Tensor | None, ...]:
    inner_MG, x_ND, weight_M, gate_EFD, up_EFD, down_EDF, *order = ctx.saved_tensors
    of_x_ND, of_weight_M, of_gate_EFD, of_up_EFD, of_down_EDF = _fused_backward(
        of_y_ND.contiguous(), inner_MG, x_ND, weight_M, gate_EFD, up_EFD, down_EDF, ctx.activation, *order
    )
    of_gate = None if gate_EFD is None else of_gate_EFD
    return of_x_ND, of_weight_M, of_gate, of_up_EFD, of_down_EDF, None, None, None, None, None


fused_experts.register_autograd(_backward, setup_context=_keep)


class _Matrices:
    """Room for one expert's matrices in the dtype of `like`: those that read a token as one, and the last."""

    def __init__(self, like: Tensor, gate_EFD: Tensor | None, up_EFD: Tensor, down_EDF: Tensor) -> None:
        self._first = [each.unbind(0) for each in (gate_EFD, up_EFD) if each is not None]
        self._last = down_EDF.unbind(0)
        self.into_GD = like.new_empty(_width(gate_EFD, up_EFD), up_EFD.shape[2])
        self.out_DF = like.new_empty(down_EDF.shape[1:])
        self._parts = self.into_GD.chunk(len(self._first))

    def of(self, expert: int) -> tuple[Tensor, Tensor]:
        """An expert's, until those of another are asked for."""
        for part, matrices in zip(self._parts, self._first, strict=True):
            part.copy_(matrices[expert])
        return self.into_GD, self.out_DF.copy_(self._last[expert])


def _turns(count_E: Tensor, block: int) -> Iterator[tuple[int, int, int, int]]:
    """For each expert with rows its number, where they begin and end, and how many they are in whole blocks."""
    begin = 0
    for expert, count in enumerate(count_E.tolist()):
        if count:
            yield expert, begin, begin + count, -(-count // block) * block
        begin += count


def _most(turns: list[tuple[int, int, int, int]]) -> int:
    return max((turn[3] for turn in turns), default=0)


def _width(gate_EFD: Tensor | None, up_EFD: Tensor) -> int:
    return up_EFD.shape[1] * (1 if gate_EFD is None else 2)


def _by_place(weight_M: Tensor, place_M: Tensor) -> Tensor:
    """Weights sorted by expert, as a column."""
    return torch.empty_like(weight_M).index_copy_(0, place_M, weight_M)[:, None]


def _gathered(x_ND: Tensor, token_n: Tensor, rows_PD: Tensor) -> Tensor:
    """Rows of tokens, with zeros below."""
    n = len(token_n)
    torch.index_select(x_ND, 0, token_n, out=rows_PD[:n])
    if n < len(rows_PD):
        rows_PD[n:] = 0
    return rows_PD
