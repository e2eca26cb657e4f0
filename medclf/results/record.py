"""What stands in a run's run.json, and how the JSON files of a run are read. Light: a prediction reads it as well."""

from __future__ import annotations

import json
import shlex
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from medclf.errors import DataError, by_road
from medclf.results.shapes import COUNT, FLAG, TEXT, Shape, fields

RECORD_FORMAT = 2  # of run.json
RECORD = "run.json"  # what a RUN was made with, in its folder
REMEDY = "restore it from a copy, or make the run again"

RECORD_SHAPE = fields(
    {},
    {
        "root": TEXT,
        "multi_label": FLAG,
        "hide_names": FLAG,
        "show_burned_in": FLAG,
        "bundle": TEXT,
        "settings": fields({}, {"hide_names": FLAG, "show_burned_in": FLAG}),
    },
)


def to_resume(run: str | Path) -> str:
    """How to go on with a training that was stopped.

    Example:
        >>> to_resume("RUN")
        "resume('RUN')"
    """
    return by_road(f"resume({str(run)!r})", f"medclf train --resume {shlex.quote(str(run))}")


def now() -> str:
    """The time, as run.json has it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def read_record(path: str | Path) -> dict[str, Any]:
    """run.json, checked, with the names of today.

    Raises:
        DataError: the file is missing or damaged, or of a later medclf.
    """
    record = read_json(path, RECORD_SHAPE, version="format", newest=RECORD_FORMAT)
    rename(record.get("settings"), "head_start", "linear_probe")
    return record


def read_json(path: str | Path, shape: Shape, *, version: str, newest: int) -> dict[str, Any]:
    """A JSON file of a run.

    Args:
        path: the file.
        shape: what it must hold.
        version: the name of the field with its version; a file without one is as old as can be.
        newest: the highest version that is understood.

    Raises:
        DataError: the file is missing or damaged, or its version is higher.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist", REMEDY) from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}", REMEDY) from error
    if not isinstance(value, dict):
        raise DataError(f"{path} is damaged: it holds no JSON object", REMEDY)
    found = value.get(version, 1)
    if COUNT(found, version):
        raise DataError(f"{path} is damaged: its {version} is not a number", REMEDY)
    if found > newest:
        raise DataError(f"{path} has {version} {found}; this medclf reads up to {newest}", "update medclf")
    if wrong := shape(value, path.stem):
        raise DataError(f"{path} is damaged: {wrong}", REMEDY)
    return value


def rename(values: Any, old: str, new: str) -> None:
    """Give a key of 0.1 its name of today, where it is there."""
    if isinstance(values, dict) and old in values:
        values[new] = values.pop(old)
