"""A function on several ranks of torch.distributed, each a process of its own on the CPU."""

import datetime
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from tests.training.processes import CONTEXT, LIMIT


def on_ranks(n_ranks: int, function: Callable[..., None], folder: Path, *arguments: Any) -> None:
    """Call `function(rank, *arguments)` on every rank, in one group of gloo.

    Args:
        n_ranks: how many processes.
        function: of a module, so that the processes find it.
        folder: for the file where they meet.

    Raises:
        AssertionError: with the traceback, when it fails on a rank, or does not return.
    """
    processes, ends = [], []
    for rank in range(n_ranks):
        end, other = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_run, args=(other, rank, n_ranks, folder / "ranks", function, arguments))
        process.start()
        other.close()
        processes.append(process)
        ends.append(end)
    told: dict[int, str] = {}
    waiting = set(range(n_ranks))
    try:
        while waiting and not any(told.values()):
            ready = wait([ends[rank] for rank in waiting], timeout=LIMIT)
            assert ready, f"ranks {sorted(waiting)} do not return"
            for rank in [rank for rank in waiting if ends[rank] in ready]:
                try:
                    told[rank] = ends[rank].recv()
                except EOFError:
                    told[rank] = "the process ended without a word"
                waiting.discard(rank)
        failed = {rank: text for rank, text in told.items() if text}
        assert not failed, "\n".join(f"rank {rank}: {text}" for rank, text in failed.items())
    finally:
        for process in processes:
            process.join(0.0 if waiting else 10.0)
            process.kill()
            process.join()


def _run(
    end: Connection, rank: int, n_ranks: int, meeting: Path, function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    text = ""
    try:
        limit = datetime.timedelta(seconds=LIMIT / 2)
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=n_ranks, timeout=limit)
        function(rank, *arguments)
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        text = traceback.format_exc()
    end.send(text)
    end.close()
