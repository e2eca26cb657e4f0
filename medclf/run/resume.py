"""A RUN folder from its first file to its last: claimed, held, killed, gone on with, finished."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import shlex
import shutil
import time
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from medclf.config import TrainConfig
from medclf.errors import DataError, MedclfWarning, OutputError, argument, by_road
from medclf.files import check_writable, sweep
from medclf.inference.bundle_format import WEIGHTS, is_detector
from medclf.inference.runtimes import bundle_in
from medclf.results import record as run_record
from medclf.results.record import RECORD, RECORD_FORMAT, to_resume

CHECKPOINTS = "checkpoint"
RUNS = "runs"
_PATIENCE_S = 10.0  # a killed run's worker processes live a few seconds longer


def located(config: TrainConfig) -> TrainConfig:
    """The settings with absolute paths, so that they mean the same from another folder.

    A table of labels that is not in the working folder is the one in the data's folder, as `scan` has it.
    """
    names = ("data", "labels", "test", "card", "corrections", "plan", "from_run")
    given = {name: getattr(config, name) for name in names}
    if config.labels and not Path(config.labels).exists():
        given["labels"] = Path(config.data, config.labels)
    if config.weights and Path(config.weights).is_file():
        given["weights"] = config.weights
    paths: dict[str, Any] = {name: str(Path(path).absolute()) for name, path in given.items() if path}
    return replace(config, **paths)


def started_from(config: TrainConfig, said: Collection[str] = ()) -> TrainConfig:
    """The settings, with architecture, size and weights of the RUN that `from_run` names.

    Args:
        config: of the run.
        said: settings that the user named, which count also where they have their usual value.

    Raises:
        DataError: it holds no network, or the settings ask for another one.
    """
    if config.from_run is None:
        return config
    if is_detector(bundle_in(config.from_run)):
        raise DataError(f"{argument('from_run')}: {config.from_run} holds a detector", "give the RUN of a classifier")
    weights = bundle_in(config.from_run) / WEIGHTS
    if config.weights != str(weights) and ("weights" in said or config.weights != TrainConfig.weights):
        text = f"{argument('from_run')} and {argument('weights')} both say what to start from"
        raise DataError(text, "leave out one of the two")
    if not weights.is_file():
        raise DataError(f"{argument('from_run')}: {config.from_run} holds no bundle", "give the RUN of a training")
    if not Path(config.from_run, RECORD).is_file():
        text = f"{argument('from_run')}: {config.from_run} is a bundle, which does not say what it was trained on"
        raise DataError(text, f"give its RUN, or its weights alone with {argument('weights', weights)}")
    earlier = read_record(config.from_run)["settings"]
    changes = {}
    for name in ("arch", "size", "pooling"):
        given, usual, there = getattr(config, name), getattr(TrainConfig, name), earlier.get(name)
        if given != there and (name in said or given != usual):
            text = f"{argument(name, given)} does not go with {config.from_run}, which has {there or 'another'}"
            raise DataError(text, f"leave out {argument(name)}")
        changes[name] = there
    return replace(config, weights=str(weights), **changes)


def read_record(path: str | Path) -> dict[str, Any]:
    """What `run.json` says.

    Args:
        path: a RUN folder, or the file.

    Raises:
        DataError: there is none, or it is no record of a run.
    """
    path = Path(path)
    file = path / RECORD if path.is_dir() or path.suffix != ".json" else path
    if not file.is_file():
        raise DataError(
            f"{path} holds no {RECORD}: no training began there",
            f"begin with: {by_road('train(data, out=RUN)', 'medclf train DATA --out RUN')}",
        )
    record = run_record.read_record(file)
    if "settings" not in record:
        raise DataError(f"{file} has no settings of a training", f"give the {RECORD} that medclf train wrote")
    return record


def settings_in(record: Mapping[str, Any], **changes: Any) -> TrainConfig:
    """The settings of a record, with some changed; whether to overwrite is never taken from a file.

    Raises:
        DataError: a setting that this version does not know, or that cannot be.

    Example:
        >>> settings_in({"settings": {"data": "d", "out": "r", "window": [40, 400], "overwrite": True}}, seed=7)
        TrainConfig(data='d', out='r', overwrite=False, ... window=(40, 400), ... seed=7, ...)
    """
    if record.get("task") == "boxes":
        raise DataError("the run trained a detector on boxes", f"train it anew, with {argument('boxes', 'FILE')}")
    values = {**record["settings"], "overwrite": False}
    if isinstance(values.get("window"), list):
        values["window"] = tuple(values["window"])
    before, now = TrainConfig.from_dict(values), TrainConfig.from_dict(values, **changes)
    asked = (record.get("outline") or {}).get("asked_size")
    same = replace(before, out=now.out, overwrite=now.overwrite) == now
    if same or "size" in changes or not (now.budget and asked):
        return now
    return replace(now, size=asked)  # the budget had made it smaller; for other settings it is measured anew


def is_finished(record: Mapping[str, Any]) -> bool:
    """Whether the run was done to its end."""
    return bool(record.get("finished"))


def check_resumable(record: Mapping[str, Any], run: str | Path) -> None:
    """Raise DataError where an earlier medclf began the run: its checkpoints are not understood."""
    if record.get("format", 1) < RECORD_FORMAT:
        began = (record.get("versions") or {}).get("medclf", "0.1")
        text = f"{run} was begun by medclf {began}; this version cannot go on with it"
        again = f"medclf train --config {shlex.quote(str(run))} --out NEW"
        raise DataError(text, f"train anew with its settings: {again}")


@contextlib.contextmanager
def claimed(out: str | Path, *, overwrite: bool = False, resume: bool = False) -> Iterator[Path]:
    """Make the RUN folder, or take one that was left, and keep other processes out of it meanwhile.

    Args:
        out: the folder.
        overwrite: empty a run that is there.
        resume: take what a killed run left, without what it was just writing.

    Raises:
        OutputError: it exists and is not to be overwritten, holds something that is no run, cannot be made, or another
            process is writing to it.
    """
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out} cannot be made: {error.strerror}", f"choose another {argument('out')}") from error
    with _held(out):
        sweep(out)
        for left in out.glob(".bundle.*"):
            shutil.rmtree(left, ignore_errors=True)
        if not resume:
            check_free(out, overwrite)
            _empty(out)
        try:
            yield out
        finally:
            _leave_nothing(out, resume)


def _leave_nothing(out: Path, resume: bool) -> None:
    """Remove a folder that holds no more than the settings: after a mistake in them, the same --out is free again."""
    if not resume and [path.name for path in out.iterdir()] in ([], [RECORD]):
        (out / RECORD).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody's current folder
            out.rmdir()


def next_run(data: str | Path, *, hide_names: bool = False) -> Path:
    """Where a training that was given no folder puts its RUN: the first free `runs/DATA-N`, which is made at once.

    Args:
        data: the folder of images or the CSV, whose name it takes.
        hide_names: take no name.

    Raises:
        OutputError: several processes train together, and each would count for itself; or it cannot be made.

    Example:
        >>> next_run("images/kvasir-v2")  # doctest: +SKIP
        PosixPath('runs/kvasir-v2-1')
    """
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        text = "several processes train together and were given no RUN folder"
        raise OutputError(text, f"name one with {argument('out', 'RUN')}")
    data = Path(data).absolute()
    name = "run" if hide_names else (data.stem if data.is_file() else data.name) or "run"
    for place in (Path(RUNS) / f"{name}-{count}" for count in itertools.count(1)):
        if not place.exists() and _made(place):
            break
    for folder in (place.parent.absolute(), place.absolute()):  # at the end the last one registered goes first
        atexit.register(_remove_if_empty, folder)  # after a mistake in the settings
    return place


def _made(place: Path) -> bool:
    """Make a RUN folder; False where another process has just made it."""
    try:
        place.mkdir(parents=True)
    except FileExistsError:
        return False
    except OSError as error:
        raise OutputError(f"{place} cannot be made: {error.strerror}", f"choose another {argument('out')}") from error
    return True


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def check_free(out: str | Path, overwrite: bool) -> None:
    """See that a RUN may be made there: nothing is there, or a run that may be overwritten.

    Raises:
        OutputError: something else is there.
    """
    out = Path(out)
    check_writable(out)
    record = out / RECORD
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not overwrite:
        begun = record.is_file() and not is_finished(read_record(out))
        remedy = f"go on with it: {to_resume(out)}; or" if begun else f"choose another {argument('out')}, or"
        raise OutputError(f"{out} exists already", f"{remedy} replace it with {argument('overwrite', True)}")
    if not record.is_file():
        raise OutputError(
            f"{out} is not a run of medclf, so it is not overwritten", f"choose another {argument('out')}"
        )


def check_not_emptied(config: TrainConfig, **more: Any) -> None:
    """See that what a training reads is not in the RUN that it empties first.

    Args:
        config: whose files are looked at.
        more: further ones, by the argument that names them.

    Raises:
        OutputError: it is, and would be lost.

    Example:
        >>> check_not_emptied(TrainConfig("images", "RUN", overwrite=True, corrections="RUN2/review.csv"))
    """
    out = Path(config.out).absolute()
    names = ("data", "labels", "test", "card", "corrections", "from_run", "weights")
    read = {name: getattr(config, name) for name in names} | more
    for name, path in read.items() if config.overwrite else ():
        if path and Path(path).absolute().is_relative_to(out) and Path(path).exists():
            text = f"{argument(name)}: {path} is in {config.out}, which {argument('overwrite', True)} empties first"
            raise OutputError(text, f"choose another {argument('out')}")


def _empty(out: Path) -> None:
    record = out / RECORD
    for left in sorted(out.iterdir(), key=lambda path: path == record):  # the record last: a killed one is a run still
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink()


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Lock a folder, without a file in it; the lock ends with the process, however that ends."""
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    deadline = time.monotonic() + _PATIENCE_S
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise OutputError(
                        f"{folder} is being written by another process",
                        f"wait for it, or choose another {argument('out')}",
                    ) from error
                time.sleep(0.2)
            except OSError:  # a file system without locks
                break
        yield
    finally:
        os.close(handle)


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], *, resume: bool) -> None:
    """Compare a run's record with that of the run it is repeated or gone on with by.

    Where other data were asked for, or corrections of them, their tables need not be the same.

    Raises:
        DataError: with `resume`, the data have changed.

    Warns:
        MedclfWarning: what differs, so that the result will not be the same to the bit.
    """
    if before.get("table_sha256") not in (None, now["table_sha256"]):
        text = "the data are not those of the run: files, labels or patients have changed since"
        if resume:
            raise DataError(text, f"put them back as they were, or train anew with {argument('overwrite', True)}")
        asked, asks = settings_in(before), settings_in(now)
        if all(getattr(asked, name) == getattr(asks, name) for name in ("data", "corrections", *asked.scan_kwargs())):
            warnings.warn(MedclfWarning(text), stacklevel=2)
    then, today = before.get("versions", {}), now["versions"]
    other = [
        f"{name} {then[name]} then, {today.get(name, 'none')} now" for name in then if then[name] != today.get(name)
    ]
    if before.get("threads") not in (None, now["threads"]):
        other.append(f"{before['threads']} threads then, {now['threads']} now")
    if other:
        text = f"the result will not be the same to the bit: {'; '.join(other)}"
        warnings.warn(MedclfWarning(text), stacklevel=2)


def tidy(out: Path) -> None:
    """Remove what only an unfinished run needs."""
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
