"""What to do about a data set of which no image can be used."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pandas as pd

from medclf.dataset.columns import BLANK
from medclf.dataset.folders import is_run, walk
from medclf.dataset.layouts import NO_CLASS_FOLDER, where_labels_are
from medclf.dataset.sources import MISSING
from medclf.errors import DataError, argument, by_road


def remedy_for(problems: pd.Series, root: Path) -> str:
    """What to do where no image can be used, by why that is for most."""

    def most_are(start: str) -> bool:
        return bool(problems.str.startswith(start).mean() > 0.5)

    if is_run(root):
        return f"{root.name} is a RUN of medclf: give the images that it was trained on, which its run.json names"
    if most_are("has no frame"):
        return f"choose another {argument('frame')}"
    if most_are(MISSING):
        tree = walk(root)
        if tree.linked:
            return f"the folder holds {len(tree.linked)} links to images outside: {tree.taken_by} takes them"
        there = "".join(f": the folder holds '{path}'" for path in tree.paths[:1])
        return f"correct the paths, or name their column with {argument('path_col')}{there}"
    if most_are("a folder"):
        return "write a row for each image file, with its path"
    if most_are("the window asked for"):
        return f"choose another {argument('window')}"
    if most_are(f"{NO_CLASS_FOLDER}: it has fewer"):
        return f"choose a lower {argument('label_from_parent')}"
    if most_are(NO_CLASS_FOLDER):
        put = f"put each class into a folder, or give {argument('labels', 'labels.csv')}"
        return _boxes_beside(root) or where_labels_are(root) or put + by_road(", or label_from=None", "")
    if most_are(BLANK):
        return f"fill the labels, without separators at their ends, or name their column with {argument('label_col')}"
    if most_are("uncertain"):
        return f"let {argument('uncertain')} and {argument('blank')} count such cells as something else than exclude"
    return "repair them"


def _boxes_beside(root: Path) -> str:
    """Which file beside the images has boxes of their findings; "" where none has."""
    from medclf.dataset.box_files import read_box_file  # only this error needs it

    for file in sorted(root.glob("*.json")):
        with contextlib.suppress(DataError):
            if read_box_file(file):
                return f"{file.name} holds boxes of findings: give {argument('boxes', str(file))}"
    return ""
