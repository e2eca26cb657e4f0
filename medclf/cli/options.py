"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from medclf.errors import MedclfError

Data = Annotated[Path, typer.Argument(help="folder of images, or a CSV")]
Labels = Annotated[Path | None, typer.Option(help="CSV with the labels, where the folders are not")]
PathCol = Annotated[str, typer.Option(help="its column of paths")]
LabelCol = Annotated[list[str] | None, typer.Option(help="its column of labels; repeat it for columns of 0 and 1")]
LabelDelim = Annotated[str | None, typer.Option(help="separates several labels in one cell (multi-label)")]
PatientCol = Annotated[str | None, typer.Option(help="its column of patients")]
PartitionCol = Annotated[str | None, typer.Option(help="its column of train, valid and test")]
Strict = Annotated[bool, typer.Option("--strict", help="stop at a file that cannot be used")]
ShowBurnedIn = Annotated[
    bool,
    typer.Option(
        "--show-burned-in",
        help="also show ultrasound, secondary captures and what is marked as burned-in: these often show names",
    ),
]

_TABLE = ("labels", "path_col", "label_delim", "patient_col", "partition_col", "strict")


def table_options(ctx: typer.Context) -> dict[str, Any]:
    """What `scan` is called with: the command's options that say where labels, patients and partitions stand."""
    columns = ctx.params["label_col"] or ["label"]
    given = {name: ctx.params[name] for name in _TABLE if name in ctx.params}
    return given | {"label_col": columns[0] if len(columns) == 1 else list(columns)}


def numbers(name: str, text: str, example: str) -> tuple[float, ...]:
    """The numbers of an option such as `--box 0,0.7,0.3,1`; as many as its example has.

    Raises:
        MedclfError: it is something else.

    Example:
        >>> numbers("window", "40,400", "40,400")
        (40.0, 400.0)
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != example.count(",") + 1:
        raise MedclfError(f"--{name} {text} cannot be read", f"for example --{name} {example}")
    return values


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Within it nothing looks for garbage, and what was made is not gone through later either."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def is_first() -> bool:
    """Whether this process speaks to the user, where a launcher started several."""
    return os.environ.get("RANK", "0") == "0"
