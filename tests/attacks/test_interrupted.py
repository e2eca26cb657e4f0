"""Kills, full disks, folders that cannot be written, runs that exist: a clear error or no loss, never half a file."""

import contextlib
import errno
import json
import os
import re
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medclf.cli import main
from medclf.config import TrainConfig
from medclf.errors import DataError, MedclfWarning, OutputError
from medclf.files import check_writable, replacing, sweep, write_json, write_tensors, write_text
from medclf.reporting.plain_page import check_page
from medclf.run.resume import check_free, check_same, claimed, read_record, settings_in

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def disk_of(n_bytes):
    """No file can grow beyond so many bytes, as on a full disk: writing fails with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def somebody():
    """Root may write anywhere; nobody else may."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


# --- one file ---------------------------------------------------------------------------------------------------

WRITERS = {
    "text": lambda path: write_text(path, "x" * 100_000),
    "json": lambda path: write_json(path, list(range(100_000))),
    "tensors": lambda path: write_tensors(path, {"a": torch.zeros(100_000)}),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_leaves_the_old_file(tmp_path, kind):
    path = tmp_path / "a"
    path.write_text("old")
    with disk_of(20_000), pytest.raises(OutputError, match=r"a cannot be written: .*[Ff]ile too large"):
        WRITERS[kind](path)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("call", ["fsync", "mkdir", "replace"])
def test_every_step_may_fail(tmp_path, monkeypatch, call):
    path = tmp_path / "a"
    path.write_text("old")

    def fails(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*(("os.fsync",) if call == "fsync" else (Path, call)), fails)
        with pytest.raises(OutputError, match="No space left on device"):
            write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_folder_that_cannot_be_written(tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with somebody(), pytest.raises(OutputError, match="Permission denied"):
        write_text(locked / "a", "x")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_text(tmp_path / "file" / "a", "x")
    with somebody(), pytest.raises(OutputError, match="cannot be made: Permission denied"), claimed(locked / "run"):
        pass


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    (tmp_path / "file").write_text("")
    check_writable(tmp_path / "new" / "RUN")
    check_writable(tmp_path)
    for place in (locked / "RUN", locked / "deep" / "page.html", locked):
        with somebody(), pytest.raises(OutputError, match="is read-only"):
            check_writable(place)
    with pytest.raises(OutputError, match="file is a file"):
        check_writable(tmp_path / "file" / "page.html")
    with somebody():
        for asked in (lambda: check_free(locked / "RUN", False), lambda: check_page(locked / "page.html")):
            with pytest.raises(OutputError, match="read-only"):
                asked()


def test_an_error_about_another_file_is_not_taken_for_this_ones(tmp_path):
    with pytest.raises(FileNotFoundError, match="source"), replacing(tmp_path / "a") as temporary:
        temporary.write_text((tmp_path / "source").read_text())
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a"):
        _ = 1 / 0
    assert names(tmp_path) == []


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_the_users_umask_holds(tmp_path, mask):
    """With images of patients around, a user who closed the door finds it closed."""
    before = os.umask(mask)
    try:
        write_text(tmp_path / "a", "x")
        write_tensors(tmp_path / "b", {"a": torch.zeros(1)})  # safetensors makes files of mode 600
    finally:
        os.umask(before)
    for name in "ab":
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~mask


def test_what_a_library_spills_goes_with_the_file(tmp_path):
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("x")
        temporary.with_name("spilt").write_text("y")
    assert names(tmp_path) == ["a"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_while_writing_leaves_the_old_file_and_what_sweep_removes(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    pid = os.fork()
    if pid == 0:
        with replacing(path) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    assert path.read_text() == "old"
    assert len(names(tmp_path)) == 2
    sweep(tmp_path)
    assert names(tmp_path) == ["a"]


# --- the RUN folder ---------------------------------------------------------------------------------------------


def record_of(out, **more):
    write_json(out / "run.json", {"format": 1, "settings": TrainConfig("d", str(out)).as_dict(), **more})


def test_an_existing_run_is_kept_without_overwrite(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    record_of(out, finished="2026-01-01")
    (out / "report.html").write_text("precious")
    with pytest.raises(OutputError, match="exists already") as caught, claimed(out):
        pass
    assert "overwrite=True" in caught.value.remedy
    assert "resume" not in caught.value.remedy
    assert (out / "report.html").read_text() == "precious"
    with claimed(out, overwrite=True):
        assert names(out) == []


def test_a_killed_run_is_offered_to_be_resumed(tmp_path):
    record_of(tmp_path)
    with pytest.raises(OutputError, match="exists already") as caught, claimed(tmp_path):
        pass
    assert f"resume('{tmp_path}')" in caught.value.remedy


def test_a_folder_that_is_no_run_is_never_emptied(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(OutputError, match="is not a run of medclf"), claimed(tmp_path, overwrite=True):
        pass
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OutputError, match="cannot be made: File exists"), claimed(tmp_path / "file", overwrite=True):
        pass
    assert names(tmp_path) == ["file", "thesis.tex"]


def test_a_link_in_a_run_is_removed_not_followed(tmp_path):
    images, out = tmp_path / "images", tmp_path / "run"
    images.mkdir()
    (images / "a.png").write_text("precious")
    out.mkdir()
    (out / "link").symlink_to(images)
    record_of(out)
    with claimed(out, overwrite=True):
        assert names(out) == []
    assert names(images) == ["a.png"]


def test_a_kill_while_emptying_leaves_a_run(tmp_path, monkeypatch):
    """run.json goes last: without it the rest could not be told from a folder of the user's own."""
    record_of(tmp_path)
    for number in range(4):
        (tmp_path / f"{number}").write_text("")
    left = []
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, **o: (left.append(path.name), unlink(path, **o))[1])
    with claimed(tmp_path, overwrite=True):
        pass
    assert left[-1] == "run.json"


def test_what_a_kill_left_before_the_first_file_is_in_nobodys_way(tmp_path):
    (tmp_path / ".run.json.0a1b.part").mkdir()
    with claimed(tmp_path) as out:
        assert names(out) == []


def test_two_processes_do_not_share_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr("medclf.run.resume._PATIENCE_S", 0.0)
    record_of(tmp_path)
    with claimed(tmp_path, resume=True):
        for options in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(OutputError, match="another process"), claimed(tmp_path, **options):
                pass
    assert names(tmp_path) == ["run.json"]


def test_nothing_to_go_on_with_says_so(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match=r"no training began there"):
            read_record(path)
    for text in ("", "[]", "{}", '{"settings": 3}'):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(DataError, match=r"run\.json"):
            read_record(tmp_path)


def test_settings_come_back_and_never_say_overwrite(tmp_path):
    config = TrainConfig("d", "o", label_col=["a", "b"], window=(40.0, 400.0), lr=1e-3, overwrite=True, frame=3)
    write_json(tmp_path / "run.json", {"settings": config.as_dict()})
    record = read_record(tmp_path / "run.json")
    assert settings_in(record) == TrainConfig(**{**config.as_dict(), "overwrite": False})
    assert settings_in(record, out="p", seed=7).seed == 7
    with pytest.raises(DataError, match="the setting 'colour' is not known"):
        settings_in({"settings": {"data": "d", "out": "o", "colour": 1}})


def test_what_differs_from_the_run_before_is_said():
    settings = {"data": "d", "out": "o"}
    before = {"settings": settings, "table_sha256": "a", "versions": {"torch": "2.6", "numpy": "2"}, "threads": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_same(before, before, resume=True)
        check_same({}, before, resume=True)  # killed during the scan
    now = before | {"table_sha256": "b", "versions": {"torch": "2.7", "numpy": "2"}, "threads": 4}
    with pytest.raises(DataError, match="the data are not those of the run"):
        check_same(before, now, resume=True)
    with pytest.warns(MedclfWarning) as caught:
        check_same(before, now, resume=False)
    assert "torch 2.6 then, 2.7 now; 2 threads then, 4 now" in str(caught[1].message)
    for asked in ({"data": "other"}, {"corrections": "review.csv"}, {"drop": ["polyp"]}):  # they are to be others
        with pytest.warns(MedclfWarning) as caught:
            check_same(before, now | {"settings": settings | asked}, resume=False)
        assert len(caught) == 1


# --- whole runs -------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Settings for a run of seconds: random weights, 64 pixels, two colours to tell apart."""
    monkeypatch.setenv("MEDCLF_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for place, label in enumerate(("blue", "red")):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 99, (40, 40, 3), dtype=np.uint8)
            pixels[..., 2 * (1 - place)] += 100
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{number}.png")
    return {
        "data": str(tmp_path / "data"),
        "out": str(tmp_path / "run"),
        "arch": "efficientnet_lite0",
        "weights": None,
        "size": 64,
        "epochs": 1,
        "bs": 8,
    }


@pytest.mark.slow
def test_a_disk_that_fills_while_training_is_one_clear_error(tmp_path, tiny, monkeypatch):
    from medclf.run.train import resume, train

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with disk_of(2_000_000), pytest.raises(OutputError, match=r"model\.safetensors cannot be written"):
            train(TrainConfig(**tiny), lambda line: None)
        run = tmp_path / "run"
        assert names(run / "checkpoint") == []
        assert "finished" not in read_record(run)
        resume(run, lambda line: None)  # now there is room
        assert "finished" in read_record(run)
        assert not (run / "checkpoint").exists()
        said = []
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        resume(run, said.append)
        assert "was finished on" in said[0]
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
        Path(tiny["data"], "red", "5.png").unlink()
        record = read_record(run)
        del record["finished"]
        write_json(run / "run.json", record)
        with pytest.raises(DataError, match="the data are not those of the run"):
            resume(run, said.append)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_a_few_kills():
    """The benchmark's first few of 200: 0 unreadable files, always resumable, the same bits in the end."""
    command = [sys.executable, str(ROOT / "benchmarks" / "kills.py"), "--kills", "4", "--epochs", "1", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = dict(re.findall(r"^([a-z ]+): (\d+)$", done.stdout, re.MULTILINE))
    assert int(counts["files opened"]) > 0
    for name in ("unreadable files", "not resumable", "runs that differ", "left over"):
        assert counts[name] == "0", done.stdout
    assert int(counts["finished runs"]) >= 1


def test_the_command_line_takes_resume_alone(tmp_path, monkeypatch, capsys):
    def medclf(*arguments):
        monkeypatch.setattr(sys, "argv", ["medclf", "train", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        return caught.value.code, capsys.readouterr().err.splitlines()

    monkeypatch.chdir(tmp_path)
    assert medclf("--resume", "run") == (
        2,
        [
            "medclf: run holds no run.json: no training began there",
            "  begin with: medclf train DATA --out RUN",
        ],
    )
    for other in (["--epochs", "3"], ["data"], ["--config", "run.json"]):
        code, lines = medclf("--resume", "run", *other)
        assert (code, lines[0]) == (2, "medclf: --resume takes all settings from the run")
    (tmp_path / "run.json").write_text(json.dumps({"settings": {"data": "d", "out": "o", "colour": 1}}))
    code, lines = medclf("--config", "run.json", "--seed", "3")
    assert (code, lines[0]) == (2, "medclf: the setting 'colour' is not known")
