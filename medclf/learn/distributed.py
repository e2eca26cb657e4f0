"""Processes that train one network together: who is who, and what they tell each other.

A launcher (`torchrun`, `accelerate launch`, Slurm) starts them and says in the environment which is which. Inside
`group` they can talk, through `torch.distributed`; outside of it, and where there is one process, each is on its own
and every function here gives back what it was given. What they tell each other is JSON and arrays; nothing is pickled.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.rendezvous import rendezvous

Made = TypeVar("Made")

_PATIENCE = timedelta(days=1)  # while the first process decodes or writes; the launcher ends all if one fails


def launched() -> int:
    """How many processes a launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def is_first() -> bool:
    """Whether this process is the one that writes files and speaks to the user."""
    return int(os.environ.get("RANK") or 0) == 0


def n_ranks() -> int:
    """How many processes can talk to each other now."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number among those that can talk, from 0."""
    return dist.get_rank() if n_ranks() > 1 else 0


@contextlib.contextmanager
def group(device: Any = None) -> Iterator[None]:
    """Within it, the processes of one launch can talk; it begins when all have come.

    Args:
        device: "cpu" keeps off the GPUs; otherwise each process takes the one of its local rank where there are GPUs.

    Example:
        >>> with group():  # without a launcher
        ...     n_ranks(), from_first(lambda: "alone")
        (1, 'alone')
    """
    if launched() == 1 or dist.is_initialized():
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available() and torch.device(device or "cuda").type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK") or 0) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    store, number, size = next(rendezvous("env://", timeout=_PATIENCE))
    turn = store.add(f"groups of process {number}", 1)  # a group must not find the addresses of the one before
    own = dist.PrefixStore(f"group {turn}", store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=own, rank=number, world_size=size, timeout=_PATIENCE)
    try:
        yield
        dist.barrier()
    finally:
        dist.destroy_process_group()


def wait() -> None:
    """Until all that can talk have come here."""
    if n_ranks() > 1:
        dist.barrier()


def from_first(make: Callable[[], Made]) -> Made:
    """What `make` gives in the first process, for all of them.

    Args:
        make: called in the first process only; its result is JSON's: numbers, text, lists, dicts, None.
    """
    if n_ranks() == 1:
        return make()
    made = make() if rank() == 0 else None
    data = np.frombuffer(json.dumps(made).encode(), np.uint8)
    size = torch.tensor([len(data)])
    dist.broadcast(size, 0)
    sent = torch.from_numpy(data.copy()) if rank() == 0 else torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(sent, 0)
    return made if rank() == 0 else json.loads(sent.numpy().tobytes())  # type: ignore[return-value]


def in_turn(make: Callable[[], Made]) -> Made:
    """Call `make` in the first process, then in the first of each machine, then in all others.

    For what is made once and found by the others: a store on a disk that all share, or one on each machine's own.
    """
    if n_ranks() == 1:
        return make()
    mine = 0 if rank() == 0 else 1 if int(os.environ.get("LOCAL_RANK") or 0) == 0 else 2
    made: Made
    for turn in range(3):
        if turn == mine:
            made = make()
        dist.barrier()
    return made


def copy_first(tensors: list[Tensor]) -> None:
    """Overwrite `tensors` in each process with those of the first."""
    if n_ranks() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def summed(values: list[float]) -> list[float]:
    """Each value summed over the processes."""
    if n_ranks() == 1:
        return values
    total = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(total)
    return [float(value) for value in total]


def gathered(rows: np.ndarray) -> np.ndarray:
    """The rows of all processes, those of the first one first, in each process; they may have different numbers.

    Args:
        rows: (n, ...), each process with its own n and the same rest.

    Returns:
        (sum of n, ...), of the same dtype.
    """
    if n_ranks() == 1:
        return rows
    counts = [torch.zeros(1, dtype=torch.int64) for _ in range(n_ranks())]
    dist.all_gather(counts, torch.tensor([len(rows)]))
    longest = max(int(count) for count in counts)
    padded = np.zeros((longest, *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    everyone = [torch.from_numpy(np.empty_like(padded)) for _ in range(n_ranks())]
    dist.all_gather(everyone, torch.from_numpy(padded))
    return np.concatenate([part.numpy()[: int(n)] for part, n in zip(everyone, counts, strict=True)])


def share(n: int, mine: tuple[int, int]) -> slice:
    """Which of `n` things in a row are this process's: as even as can be, none left out, none twice.

    Args:
        n: how many there are.
        mine: this process's number, and how many processes there are.

    Example:
        >>> [share(7, (rank, 3)) for rank in range(3)]
        [slice(0, 2, None), slice(2, 4, None), slice(4, 7, None)]
    """
    rank, n_ranks = mine
    return slice(n * rank // n_ranks, n * (rank + 1) // n_ranks)


def dealt(order: list[int], bs: int, mine: tuple[int, int]) -> list[int]:
    """This process's part of each batch that all processes make together.

    Args:
        order: the images of an epoch.
        bs: images that this process takes of each batch of `bs` times the number of processes.
        mine: this process's number, and how many processes there are.

    Returns:
        Its images in order. Only of the last batch may the processes' parts differ, by one image; where that has fewer
        images than there are processes, some are used twice, since each needs one.

    Example:
        >>> [dealt([5, 3, 8, 1, 9, 2, 7], 2, (rank, 2)) for rank in range(2)]
        [[5, 3, 9], [8, 1, 2, 7]]
    """
    n_ranks = mine[1]
    own: list[int] = []
    for start in range(0, len(order), bs * n_ranks):
        batch = order[start : start + bs * n_ranks]
        batch = (batch * n_ranks)[: max(len(batch), n_ranks)]
        own += batch[share(len(batch), mine)]
    return own
