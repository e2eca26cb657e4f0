"""A table with a row a patient made into one with a row an image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medclf.dataset.columns import Sheet
from medclf.dataset.identity import patient_id
from medclf.dataset.layouts import surely_patient
from medclf.dataset.spelt_names import number_key, without_letter
from medclf.errors import DataError, argument


def labels_of_patients(sheet: Sheet, folder: Path, paths: Sequence[str]) -> Sheet:
    """A table of patients as one of images: a row's images are those of its Patient ID, or below a folder of its name.

    Raises:
        DataError: a patient has two rows, or no image is of one of the patients.
    """
    column = str(sheet.columns.patient)
    place: dict[str, int] = {}
    for row, name in enumerate(sheet.texts(column)):
        if (first := place.setdefault(number_key(name), row)) != row:
            text = f"{sheet.place(row, column)}: '{name}' stands in row {first + 1} as well"
            raise DataError(text, f"give one row a patient, or name a column of paths with {argument('path_col')}")
    found = {path: _row_of_patient(folder, path, place) for path in paths}
    rows = {path: row for path, row in found.items() if row is not None}
    if not rows:
        text = f"{sheet.name} has no column '{sheet.columns.path}', and no image is of one of its patients"
        remedy = f"name a column of paths with {argument('path_col')}, or the folders as the patients"
        raise DataError(text, remedy)
    frame = sheet.frame.iloc[list(rows.values())].reset_index(drop=True)
    frame.insert(0, sheet.columns.path, list(rows))
    lost = [name for name, row in place.items() if row not in set(rows.values())]
    notes = [f"{len(rows)} image files have the label of their patient in {sheet.name}"]
    notes += [f"{len(lost)} patients of {sheet.name} have no image: {', '.join(lost[:5])}"] if lost else []
    return replace(sheet, frame=frame, notes=[*sheet.notes, *notes])


def _row_of_patient(folder: Path, path: str, place: dict[str, int]) -> int | None:
    for part in reversed(Path(path).parent.parts):
        # patient001 is patient 1, too
        number = re.sub(r"^\D+", "", part) if surely_patient(part) else without_letter(part)
        for key in map(number_key, (part, number)):
            if key in place:
                return place[key]
    patient = patient_id(folder / path)
    return None if patient is None else place.get(number_key(patient))
