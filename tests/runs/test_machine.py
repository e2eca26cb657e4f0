"""Threads set from the cores that may be used, and left as the user has them."""

import os

import pytest

from medclf.runs.machine import settle_threads, usable_cores


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
    monkeypatch.setattr("medclf.runs.machine.usable_cores", lambda: 1)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    mine = {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "ACTIVE"}
    settle_threads(mine)
    assert mine == {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "ACTIVE"}
    fresh: dict[str, str] = {}
    settle_threads(fresh)
    assert fresh == {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    monkeypatch.setattr("medclf.runs.machine.usable_cores", lambda: 8)
    whole: dict[str, str] = {}
    settle_threads(whole)
    assert "OMP_NUM_THREADS" not in whole
