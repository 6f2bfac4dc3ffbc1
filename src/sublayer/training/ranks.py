"""What is added up over the ranks of a torch.distributed process group."""

import torch
import torch.distributed as dist

from sublayer.model.report import Report


def world_size() -> int:
    """How many ranks there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def over_ranks(told: Report) -> Report:
    """The sums and counts of all ranks added up, without gradients, on each of them.

    All ranks must call it, each with the same names: one collective for each dtype.
    """
    if world_size() == 1:
        return told
    kinds = {"sums": told.sums, "counts": told.counts}
    parts = {(kind, name): value.detach() for kind, values in kinds.items() for name, value in sorted(values.items())}
    found: dict[str, dict[str, torch.Tensor]] = {kind: {} for kind in kinds}
    for dtype in sorted({value.dtype for value in parts.values()}, key=str):
        alike = {key: value for key, value in parts.items() if value.dtype == dtype}
        flat = torch.cat([value.flatten() for value in alike.values()])
        dist.all_reduce(flat)
        pieces = torch.split(flat, [value.numel() for value in alike.values()])
        for ((kind, name), value), piece in zip(alike.items(), pieces, strict=True):
            found[kind][name] = piece.view(value.shape)
    return Report(sums=found["sums"], counts=found["counts"])
