"""Threads and memory set for the machine, before torch is loaded."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medclf.errors import DataError, argument

if TYPE_CHECKING:
    import torch

_GROUPS = Path("/sys/fs/cgroup")
_MMAP_MAX, _TRIM_THRESHOLD = -4, -1  # of mallopt(3)


def usable_cores(groups: Path = _GROUPS) -> int:
    """Processor cores that this process may use: those it is bound to, and no more than its container's quota.

    Args:
        groups: where Linux shows the quota, of either version of control groups.

    Example:
        >>> 1 <= usable_cores() <= (os.cpu_count() or 1)
        True
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(groups)
    return bound if quota is None else max(1, min(bound, math.ceil(quota)))


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


def settle_machine() -> None:
    """Set threads and memory for a process that trains or evaluates; only the command line does, which owns it."""
    settle_threads()
    keep_memory()


def keep_memory() -> None:
    """Let the C library keep what a batch has freed for the next one, where it is glibc.

    By itself it gives blocks of many megabytes back at once and gets others, whose pages the system fills with zeros:
    `benchmarks/threads.py` shows what that costs. What the user has set (MALLOC_...) stays.
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

    What the user has set stays. It must be called before torch is loaded, so only the command line calls it; where a
    container may use fewer cores than the machine has, torch by itself takes as many threads as the machine has.

    Args:
        environment: the process's own where None.
    """
    variables = os.environ if environment is None else environment
    variables.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    cores = usable_cores()
    if cores < (os.cpu_count() or 1):
        variables.setdefault("OMP_NUM_THREADS", str(cores))
