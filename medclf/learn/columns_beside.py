"""The columns that `tabular` names, ready to be fused: those of the table, and those that are read from the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medclf.auditing.fusion import check_fields
from medclf.errors import DataError, ReadError, argument
from medclf.images.image_columns import (
    MEASURED,
    PRESENT,
    UNREADABLE,
    Measured,
    columns_of,
    counted,
    is_image_column,
    measure,
)
from medclf.images.preprocessing import Preprocessing
from medclf.learn.preprocessing import preprocessing_of
from medclf.learn.units import is_by_unit
from medclf.parallel import map_ahead
from medclf.progress import watch
from medclf.results.predictions import Predictions

_FEWEST = 20  # training images with a box, below which nothing is learnt from it


@dataclass(frozen=True)
class ColumnsBeside:
    """What can be fused.

    Args:
        table: the data's table, with what was measured.
        names: of its columns.
        measured: those of them that were read from the pixels, and one that says whether a box was there.
        notes: how often it was.
    """

    table: pd.DataFrame
    names: list[str]
    measured: list[str]
    notes: list[str]


def columns_beside(
    learn: Any, table: pd.DataFrame | None, names: Sequence[str], *, cross_validated: bool = False
) -> ColumnsBeside:
    """Check what `tabular` names, and measure what stands in the images.

    Raises:
        DataError: the network is no linear probe, so that no fold says what it makes of images that it was not trained
            on, and the run is not `cross_validated` either; a column is not there, or is the label itself; images are
            cropped, so that a standing overlay is cut off.
    """
    head = getattr(learn, "head", None)
    probed = head is not None and learn.is_probe and head.held_out is not None and head.targets is not None
    if table is None or not (probed or cross_validated):
        text = f"{argument('tabular')} stands beside a linear probe, and this network has other weights"
        raise DataError(text, f"train with {argument('recipe', 'probe')}, or with {argument('split', 'kfold')}")
    if is_by_unit(table):
        text = f"{argument('tabular')} stands beside single images, and here {argument('unit')} answers for several"
        raise DataError(text, "leave out one of the two")
    check_fields(table, names)
    found = ColumnsBeside(table, [name for name in names if not is_image_column(name)], [], [])
    for name in filter(is_image_column, names):
        found = _measured(learn, found, name)
    return found


def _measured(learn: Any, before: ColumnsBeside, name: str) -> ColumnsBeside:
    preprocessing = preprocessing_of(learn.dls)
    if preprocessing.resize == "crop":
        text = f"{argument('tabular', name)} needs the whole image, and {argument('resize', 'crop')} cuts its rim off"
        raise DataError(text, f"give {argument('resize', 'squish')}")
    table = before.table
    used = np.flatnonzero((table["problem"] == "") & table["partition"].notna())
    paths = [Path(table.attrs["root"]) / table["path"].iloc[row] for row in used]
    work = map_ahead(partial(_of_file, preprocessing, name), paths)
    rows = list(watch(work, len(paths), f"Measuring {name}"))
    columns = columns_of(name)
    found = np.full((len(table), len(columns)), np.nan)
    found[used] = np.array([[row.values[column] for column in columns] for row in rows], np.float64)
    values = pd.DataFrame(found, table.index, columns)
    states = pd.Series(None, index=table.index, dtype=object, name=name)
    states.iloc[used] = [row.state for row in rows]
    in_train = (table["partition"] == "train").to_numpy()[used]
    n = int(sum(row.state in (PRESENT, MEASURED) for row, train in zip(rows, in_train, strict=True) if train))
    notes = [*before.notes, counted([row.state for row in rows], name)]
    measured = [name, *columns]
    if n < _FEWEST:
        notes.append(f"{name} is not used: it was read in {n} training images, and {_FEWEST} are needed.")
        columns = []
    whole = pd.concat([table, states, values], axis=1)
    whole.attrs.update(table.attrs)
    return ColumnsBeside(whole, [*before.names, *columns], [*before.measured, *measured], notes)


def _of_file(preprocessing: Preprocessing, name: str, path: Path) -> Measured:
    try:
        return measure(preprocessing.prepare(path), name)
    except ReadError:
        return Measured(UNREADABLE, dict.fromkeys(columns_of(name)))


def with_columns(part: Predictions, beside: ColumnsBeside) -> Predictions:
    """The predictions, their table with what was measured."""
    if not beside.measured:
        return part
    rows = beside.table.set_index("path")[beside.measured].reindex(part.table["path"]).reset_index(drop=True)
    kept = part.table.drop(columns=[name for name in beside.measured if name in part.table])
    return replace(part, table=pd.concat([kept.reset_index(drop=True), rows], axis=1))
