"""Muon with like matrices orthogonalised together.

torch's own works on one matrix after the other, in products so small that starting them takes as long as doing them.

Shapes: M matrices of R rows and C columns.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class BatchedMuon(torch.optim.Muon):
    """torch's Muon, whose state and options it has; what it computes differs in rounding alone."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update the parameters that have a gradient."""
        assert closure is None
        for group in self.param_groups:
            alike: dict[tuple[torch.Size, torch.dtype, torch.device], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    kind = (parameter.shape, parameter.dtype, parameter.device)
                    alike.setdefault(kind, []).append(parameter)
            for parameters in alike.values():
                self._update(parameters, group)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        buffers = [self._buffer(parameter) for parameter in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        directions = torch._foreach_lerp(gradients, buffers, group["momentum"]) if group["nesterov"] else buffers
        updates_MRC = orthogonalised(
            torch.stack(list(directions)), group["ns_coefficients"], group["ns_steps"], group["eps"]
        )
        rows, columns = parameters[0].shape
        match group["adjust_lr_fn"]:
            case "match_rms_adamw":
                ratio = 0.2 * math.sqrt(max(rows, columns))
            case _:
                ratio = math.sqrt(max(1, rows / columns))
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        updates = updates_MRC.to(parameters[0].dtype).unbind()
        torch._foreach_add_(parameters, updates, alpha=-group["lr"] * ratio)

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


def orthogonalised(matrix_MRC: Tensor, coefficients: tuple[float, float, float], steps: int, epsilon: float) -> Tensor:
    """Each matrix with singular values near 1, by Newton–Schulz iterations in bfloat16 (Jordan et al. 2024)."""
    a, b, c = coefficients
    tall = matrix_MRC.shape[1] > matrix_MRC.shape[2]
    x = (matrix_MRC.mT if tall else matrix_MRC).bfloat16()  # so that the square products are of the shorter side
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=epsilon)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
