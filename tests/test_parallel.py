"""Threads set from the cores that may be used, and left as the user has them."""

import os
import subprocess
import sys

import pytest

from medclf.parallel import settle_threads, usable_cores


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_a_containers_quota_counts(tmp_path, files, cores):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == (cores or len(os.sched_getaffinity(0)))


def test_what_the_user_set_stays(monkeypatch):
    monkeypatch.setattr("medclf.parallel.usable_cores", lambda: 1)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    mine = {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "ACTIVE"}
    settle_threads(mine)
    assert mine == {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "ACTIVE"}
    fresh: dict[str, str] = {}
    settle_threads(fresh)
    assert fresh == {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    monkeypatch.setattr("medclf.parallel.usable_cores", lambda: 8)
    whole: dict[str, str] = {}
    settle_threads(whole)
    assert "OMP_NUM_THREADS" not in whole


_PAGES = """
import resource, sys, numpy as np
from medclf.parallel import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
for number in range(30):
    if number == 10:
        start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(64 << 20, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start)
"""


@pytest.mark.skipif(not (hasattr(os, "confstr") and os.confstr_names.get("CS_GNU_LIBC_VERSION")), reason="glibc only")
def test_freed_memory_is_used_again():
    bare = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment = bare | {"NUMPY_MADVISE_HUGEPAGE": "0"}

    def pages(how: str, **more: str) -> int:
        command = [sys.executable, "-c", _PAGES, how]
        return int(subprocess.run(command, env=environment | more, capture_output=True, check=True).stdout)

    given_back = pages("given back")
    assert given_back > 10_000
    assert pages("kept") < given_back / 100
    assert pages("kept", MALLOC_MMAP_THRESHOLD_="65536") > given_back / 2  # the user's own stays
