"""Threads set from the cores that may be used, and left as the user has them."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from medclf.errors import DataError
from medclf.parallel import map_ahead, n_cores, settle_threads, usable_device


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
    assert n_cores(groups=tmp_path) == (cores or len(os.sched_getaffinity(0)))


def test_no_more_than_asked_for(tmp_path):
    assert n_cores(1, groups=tmp_path) == 1
    assert n_cores(10_000, groups=tmp_path) == len(os.sched_getaffinity(0))


def test_cores_are_counted_in_one_place():
    """A count of its own would pass over the container's quota."""
    package = Path(__file__).parents[1] / "medclf"
    counting = {
        path.name
        for path in package.rglob("*.py")
        if any(word in path.read_text() for word in ("cpu_count(", "sched_getaffinity("))
    }
    assert counting == {"parallel.py"}


def test_results_come_in_order_and_only_a_few_wait():
    started, lock = [], threading.Lock()

    def work(number):
        with lock:
            started.append(number)
        time.sleep(0.002 * (number % 3))
        return -number

    found = map_ahead(work, iter(range(100)), threads=4, ahead=5)
    for number in range(10):
        assert next(found) == -number
        assert len(started) <= number + 6
    found.close()
    assert len(started) <= 16


def test_what_work_raises_comes_where_its_result_is_taken():
    found = map_ahead(lambda number: 1 // (2 - number), range(4), threads=1)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_a_device_that_is_not_there():
    with pytest.raises(DataError, match="mps") as found:
        usable_device("mps")
    assert 'device="cpu"' in str(found.value)


def test_what_the_user_set_stays(monkeypatch):
    monkeypatch.setattr("medclf.parallel.n_cores", lambda: 1)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    mine = {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "ACTIVE"}
    settle_threads(mine)
    assert mine == {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "ACTIVE"}
    fresh: dict[str, str] = {}
    settle_threads(fresh)
    assert fresh == {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    monkeypatch.setattr("medclf.parallel.n_cores", lambda: 8)
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
