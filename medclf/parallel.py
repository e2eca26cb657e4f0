"""What this machine offers: cores, threads, memory and devices. The one place that counts cores."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from medclf.errors import DataError, argument

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_GROUPS = Path("/sys/fs/cgroup")
_MMAP_MAX, _TRIM_THRESHOLD = -4, -1  # of mallopt(3)


class ForkSafeLock:
    """A lock that is free in a forked process, where the thread that held it is not there to release it.

    Example:
        >>> with ForkSafeLock() as lock:
        ...     lock.locked()
        True
    """

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> threading.Lock:
        self._lock.acquire()
        return self._lock

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def n_cores(at_most: int | None = None, *, groups: Path | None = None) -> int:
    """Processor cores that this process may use: those it is bound to, and no more than its container's quota.

    Args:
        at_most: no more than these.
        groups: where Linux shows the quota, of either version of control groups.

    Example:
        >>> 1 <= n_cores(2) <= 2
        True
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(groups or _GROUPS)
    return max(1, min(bound, math.ceil(quota or bound), at_most or bound))


def _quota(groups: Path) -> float | None:
    try:
        if (groups / "cpu.max").is_file():
            quota, period = (groups / "cpu.max").read_text().split()
        else:
            quota, period = ((groups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        share = float(quota) / float(period)
    except (OSError, ValueError):  # none, or "max"
        return None
    return share if share > 0 else None


def usable_device(device: Any) -> torch.device:
    """A device by its name, seen to be there.

    Args:
        device: "cpu", "cuda", "cuda:1" ..., or torch's own.

    Raises:
        DataError: this machine does not have it.

    Example:
        >>> usable_device("cpu")
        device(type='cpu')
    """
    import torch

    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DataError(f"this machine has no device {str(device)!r}", f"use {argument('device', 'cpu')}") from error
    return found


def map_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], *, threads: int | None = None, ahead: int = 64
) -> Iterator[Result]:
    """Results in the order of the items, made in threads a few ahead of what has been taken.

    Args:
        work: what is done with an item; what it raises is raised where its result is taken.
        items: any number of them; they are taken as they are needed.
        threads: how many; as many as there are cores, at most 8, where None.
        ahead: how many results may wait.

    Example:
        >>> list(map_ahead(lambda number: number**2, range(5), threads=2, ahead=3))
        [0, 1, 4, 9, 16]
    """
    source = iter(items)

    def begin(pool: ThreadPoolExecutor, item: Item) -> Future[Result]:
        return pool.submit(copy_context().run, work, item)  # errors speak there as they would here

    pool = ThreadPoolExecutor(threads or n_cores(8), "medclf")
    try:
        waiting = deque(begin(pool, item) for item in islice(source, ahead))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(begin(pool, item) for item in islice(source, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def settle_machine() -> None:
    """Set threads and memory for a process that trains or evaluates; only the command line does, which owns it."""
    settle_threads()
    keep_memory()


def keep_memory() -> None:
    """Let the C library keep what a batch has freed for the next one, where it is glibc.

    By itself it gives blocks of many megabytes back at once and gets others, whose pages the system fills with zeros:
    `benchmarks/threads.py` shows what that costs a step, `benchmarks/ablation.py` what it costs a training. What the
    user has set (MALLOC_...) stays.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or not hasattr(os, "confstr"):
        return
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            allocator = ctypes.CDLL(None)
            allocator.mallopt(_MMAP_MAX, 0)
            allocator.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def settle_threads(environment: MutableMapping[str, str] | None = None) -> None:
    """Let torch take no more threads than there are cores to use, and let threads that wait leave them alone.

    Where other work keeps the machine busy, OpenMP's own way of waiting costs a short training about twice the
    processors' time: `python benchmarks/ablation.py --only train`.

    What the user has set stays. It must be called before torch is loaded, so only the command line calls it; where a
    container may use fewer cores than the machine has, torch by itself takes as many threads as the machine has.

    Args:
        environment: the process's own where None.
    """
    variables = os.environ if environment is None else environment
    variables.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    cores = n_cores()
    if cores < (os.cpu_count() or 1):
        variables.setdefault("OMP_NUM_THREADS", str(cores))
