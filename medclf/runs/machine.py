"""Threads set for the machine, before torch is loaded."""

from __future__ import annotations

import math
import os
from collections.abc import MutableMapping
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")


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
