"""Boxes in a CSV file, by the names that its columns commonly have."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from medclf.dataset.csv_reading import read_csv
from medclf.dataset.given_boxes import GivenBox, GivenImage, box_of, box_of_size, label_of, number, scores_in, size_of
from medclf.dataset.spelt_names import NOTHING
from medclf.errors import DataError

_COLUMNS = {  # names that CSVs have for one thing, without signs; the first found counts
    "image": ("path", "image", "imageid", "imagepath", "imageindex", "filename", "file", "patientid"),
    "label": ("label", "class", "classname", "category", "name", "finding", "findinglabel", "target"),
    "x_min": ("xmin", "x1", "left", "bboxxmin"),
    "y_min": ("ymin", "y1", "top", "bboxymin"),
    "x_max": ("xmax", "x2", "right", "bboxxmax"),
    "y_max": ("ymax", "y2", "bottom", "bboxymax"),
}
_SIZED = {  # instead of x_max and y_max
    "x_min": (*_COLUMNS["x_min"], "x", "bboxx"),
    "y_min": (*_COLUMNS["y_min"], "y", "bboxy"),
    "width": ("width", "w", "bboxwidth", "bboxw"),
    "height": ("height", "h", "bboxheight", "bboxh"),
}
_SIZE = {"width": ("imagewidth", "imgwidth", "width"), "height": ("imageheight", "imgheight", "height")}
_SHOWN = {"image": "path, image_id, filename", "label": "label, class_name, finding"}
_SIDES = "x_min, y_min, x_max and y_max, or x, y, width and height (x and y of the upper left corner)"


def boxes_in_csv(path: Path) -> list[GivenImage]:
    """One entry an image that the rows name, in their order; a row without numbers is one without a finding.

    Raises:
        DataError: a column is missing, a row names no image, or a box has no label.
    """
    rows = read_csv(path)
    by_name = {re.sub(r"[^a-z0-9]", "", str(name).lower()): str(name) for name in reversed(list(rows.columns))}
    image_label, corners = _found(by_name, ("image", "label"), _COLUMNS), _found(by_name, tuple(_COLUMNS)[2:], _COLUMNS)
    sized = [] if all(corners) else _found(by_name, tuple(_SIZED), _SIZED)
    for name, column in zip(_SHOWN, image_label, strict=True):
        if column is None:
            raise DataError(f"{path} has no column for the {name}", f"name one {_SHOWN[name]}, for example")
    if not all(corners) and not all(sized):
        raise DataError(f"{path} has no four columns for a box", f"name them {_SIDES}")
    box = sized or corners
    entries = (dict(zip(map(str, rows.columns), row, strict=True)) for row in rows.itertuples(index=False, name=None))
    cells = rows[[*image_label, *box]].itertuples(index=False, name=None)
    sizes = [None] * len(rows) if sized else _sizes(rows, by_name, box)
    images: dict[str, GivenImage] = {}
    for line, ((name, label, *values), size, entry) in enumerate(zip(cells, sizes, entries, strict=True), 2):
        if not (name := name.strip()):
            raise DataError(f"{path}, row {line}: no image is named", "give its path")
        image = images.setdefault(name, GivenImage(name, size))
        image.size = image.size or size
        if size not in (None, image.size):
            raise DataError(f"{path}, row {line}: {name} has another width or height than before", "give one")
        nothing = all(cell.strip().lower() in NOTHING for cell in values)
        if not nothing:
            make = box_of_size if sized else box_of
            found = make(label_of(label, path, f"{name}, row {line}"), values, f"row {line}")
            image.boxes.append(replace(found, scores=scores_in(entry)))
        elif (none := GivenBox(label, (0, 0, 0, 0))).is_none:
            image.boxes.append(none)
    return list(images.values())


def _found(by_name: Mapping[str, str], keys: Sequence[str], known: Mapping[str, Sequence[str]]) -> list[str | None]:
    return [next((by_name[one] for one in known[key] if one in by_name), None) for key in keys]


def _sizes(
    rows: pd.DataFrame, by_name: Mapping[str, str], corners: Sequence[str | None]
) -> list[tuple[float, float] | None]:
    """The size of the image that each row tells; none where width and height are those of the boxes."""
    columns = _found(by_name, ("width", "height"), _SIZE)
    if not all(columns):
        return [None] * len(rows)
    sizes = [size_of(*cells) for cells in rows[columns].itertuples(index=False, name=None)]
    boxes = [tuple(map(number, cells)) for cells in rows[list(corners)].itertuples(index=False, name=None)]
    known = [(size, box) for size, box in zip(sizes, boxes, strict=True) if size and not any(v != v for v in box)]
    own = all(abs(size[k] - (box[k + 2] - box[k])) <= 1 for size, box in known for k in (0, 1))
    return [None] * len(rows) if known and own else sizes
