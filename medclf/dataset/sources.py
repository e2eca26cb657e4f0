"""What the user gave (a folder, a CSV, a DataFrame, a list) made into rows, before any image is opened."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from medclf.dataset.columns import BLANK, Columns, Sheet, read_csv, text_of
from medclf.dataset.folders import PARTITION_NAMES, BadPath, Finder, Tree, images_beside, partition_of, walk
from medclf.dataset.identity import instance_uid
from medclf.dataset.labels import Label
from medclf.errors import DataError, argument, by_road

LabelFrom = str | re.Pattern[str] | Callable[[Path], object] | None

MISSING = "file is missing"
NO_CLASS_FOLDER = "no class folder above it"


@dataclass
class Rows:
    """Equally long columns, one entry an image; `extra` holds the CSV's other columns.

    `read_for` names the labels that have a column of their own: without the label there, an image is a negative of it.
    """

    root: Path
    path: list[str]
    label: list[Label | None]
    patient: list[str | None]
    partition: list[str | None]
    problem: list[str]
    extra: pd.DataFrame
    multi_label: bool = False
    read_for: list[str] = field(default_factory=list)
    ignored: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Asked:
    """How `scan` was asked to read its source."""

    columns: Columns
    label_from: LabelFrom
    root: Path | None
    allow_outside: bool


def read_source(source: Any, labels: Any, asked: Asked) -> Rows:
    """Turn any of `scan`'s sources into rows.

    Raises:
        DataError: there is no such folder or file, a column is missing, or a path is refused.
    """
    if isinstance(source, (str, os.PathLike)):
        return _from_path(Path(source), labels, asked)
    if labels is not None:
        raise DataError(
            f"{argument('labels')} needs a folder of images",
            by_road("put the labels into the list or DataFrame", "give the folder as DATA"),
        )
    if isinstance(source, pd.DataFrame):
        return _from_sheet(Sheet(source, "the DataFrame", asked.columns), None, asked)
    return _from_sheet(_sheet_of_list(list(source), asked.columns), None, asked)


def _from_path(path: Path, labels: Any, asked: Asked) -> Rows:
    if not path.exists():
        raise DataError(f"{path}: there is no such folder or file", "look for a typing mistake in the path")
    if path.is_dir():
        return _from_folder(path, labels, asked)
    if path.suffix.lower() not in (".csv", ".tsv", ".txt"):
        raise DataError(f"{path} is neither a folder nor a CSV file", "give the folder that holds the images")
    sheet = Sheet(read_csv(path), path.name, asked.columns, is_text=True)
    root = asked.root or path.parent
    tree = walk(root, allow_outside=asked.allow_outside) if is_uid_column(asked.columns.path) else None
    rows = _from_sheet(sheet, tree, replace(asked, root=root))
    _note_unlisted(rows, images_beside(rows.root, rows.path), path.name)
    return rows


def _from_folder(folder: Path, labels: Any, asked: Asked) -> Rows:
    tree = walk(folder, allow_outside=asked.allow_outside)
    if labels is None:
        if asked.root is not None:
            raise DataError("a folder is its own root", "leave root= out, or give a CSV, list or DataFrame")
        return _from_tree(folder, tree, asked.label_from)
    if isinstance(labels, pd.DataFrame):
        sheet = Sheet(labels, "the DataFrame of labels", asked.columns)
    else:
        path = Path(labels)
        path = path if path.exists() or path.is_absolute() else folder / path
        sheet = Sheet(read_csv(path), path.name, asked.columns, is_text=True)
    if asked.root is not None:
        return _from_sheet(sheet, None, asked)
    rows = _from_sheet(sheet, tree, replace(asked, root=folder))
    _note_unlisted(rows, tree.paths, sheet.name)
    return rows


def _from_tree(root: Path, tree: Tree, label_from: LabelFrom) -> Rows:
    labels, problems = _labels_from_paths(root, tree.paths, label_from)
    return Rows(
        root=root,
        path=tree.paths,
        label=labels,
        patient=[None] * len(tree.paths),
        partition=[partition_of(path) for path in tree.paths],
        problem=problems,
        extra=pd.DataFrame(index=range(len(tree.paths))),
        ignored=tree.ignored,
        notes=tree.notes + [f"folder '{folder}' holds no image" for folder in tree.empty if label_from == "folder"],
    )


def _labels_from_paths(root: Path, paths: Sequence[str], label_from: LabelFrom) -> tuple[list[Label | None], list[str]]:
    if label_from is None:
        return [None] * len(paths), [""] * len(paths)
    if isinstance(label_from, str) and label_from != "folder":
        raise DataError(
            f"label_from={label_from!r} is not known",
            'it takes "folder", a pattern from re.compile, a function of the path, or None for no labels',
        )
    found = [_label_of(root, path, label_from) for path in paths]
    return [label or None for label, _ in found], [problem for _, problem in found]


def _label_of(root: Path, path: str, label_from: LabelFrom) -> tuple[str, str]:
    """The label and the problem of one image, of which one is empty (both are for a test image)."""
    if callable(label_from):
        label = text_of(label_from(root / path))
        return label, "" if label else BLANK
    if isinstance(label_from, re.Pattern):
        match = label_from.search(path.rpartition("/")[2])
        label = (match.group(1 if label_from.groups else 0) or "").strip() if match else ""
        return label, "" if label else f"its name does not match {label_from.pattern!r}"
    folder = path.rpartition("/")[0].rpartition("/")[2]
    if folder and folder.lower() not in PARTITION_NAMES:
        return folder, ""
    return "", "" if partition_of(path) == "test" else NO_CLASS_FOLDER


def _sheet_of_list(items: list[Any], columns: Columns) -> Sheet:
    pairs = [item if isinstance(item, (tuple, list)) else (item,) for item in items]
    lengths = {len(pair) for pair in pairs}
    if not lengths <= {1} and lengths != {2}:
        raise DataError("the list mixes paths and pairs", "give paths alone, or (path, label) for every image")
    frame = pd.DataFrame({"path": pd.Series([os.fspath(pair[0]) for pair in pairs], dtype=object)})
    if lengths == {2}:
        frame["label"] = pd.Series([pair[1] for pair in pairs], dtype=object)
    label = "label" if lengths == {2} else None
    return Sheet(frame, "the list", Columns("path", label, columns.label_delim))


def _shared_folder(paths: list[str]) -> Path:
    """The folder that all of `paths` lie in where all are absolute, else the current folder."""
    if paths and all(Path(path).is_absolute() for path in paths):
        return Path(os.path.commonpath([Path(path).parent for path in paths]))
    return Path()


def _from_sheet(sheet: Sheet, tree: Tree | None, asked: Asked) -> Rows:
    if sheet.columns.label == "label" and "label" not in sheet.frame and asked.label_from != "folder":
        sheet = replace(sheet, columns=replace(sheet.columns, label=None))
    sheet.require_columns()
    cells = sheet.texts(sheet.columns.path)
    root = asked.root if asked.root is not None else _shared_folder(cells)
    if tree and is_uid_column(sheet.columns.path):
        cells = _paths_of_uids(sheet, cells, root, tree)
    paths, missing = _find_paths(sheet, cells, Finder(root, tree, allow_outside=asked.allow_outside))
    if sheet.columns.label is None:
        labels, problems = _labels_from_paths(root, paths, asked.label_from)
        multi_label = False
    else:
        labels, problems, multi_label = sheet.labels()
    rows = Rows(
        root=root,
        path=paths,
        label=labels,
        patient=sheet.patients(),
        partition=sheet.partitions() or [partition_of(path) for path in paths],
        problem=[MISSING if gone else problem for gone, problem in zip(missing, problems, strict=True)],
        extra=sheet.extra(),
        multi_label=multi_label,
        read_for=list(sheet.columns.label) if isinstance(sheet.columns.label, list) else [],
        ignored=tree.ignored if tree else 0,
        notes=list(tree.notes) if tree else [],
    )
    for column in sheet.set_aside():
        rows.notes.append(f"column '{column}' of {sheet.name} is not kept: the table has its own of that name")
    return _one_row_a_path(rows, sheet)


def is_uid_column(name: str) -> bool:
    """Whether a column holds SOP Instance UIDs in place of paths, however it is spelt.

    Example:
        >>> is_uid_column("SOPInstanceUID"), is_uid_column("sop_instance_uid"), is_uid_column("path")
        (True, True, False)
    """
    return re.sub("[^a-z]", "", name.lower()) == "sopinstanceuid"


def _paths_of_uids(sheet: Sheet, uids: list[str], root: Path, tree: Tree) -> list[str]:
    path_of: dict[str, str] = {}
    for path in tree.paths:
        uid = instance_uid(root / path)
        if uid is not None and path_of.setdefault(uid, path) != path and uid in uids:
            row = uids.index(uid)
            raise DataError(
                f"{sheet.place(row, sheet.columns.path)}: two files have this UID, '{path_of[uid]}' and '{path}'",
                "remove one of them, or name the files by path",
            )
    return [path_of.get(uid, f"row {row}, no file has its UID") for row, uid in enumerate(uids, start=1)]


def _find_paths(sheet: Sheet, cells: list[str], finder: Finder) -> tuple[list[str], list[bool]]:
    paths, missing = [], []
    for row, cell in enumerate(cells):
        try:
            path, there = finder.find(cell)
        except BadPath as error:
            remedy = (
                "correct it"
                if finder.allow_outside
                else by_road(
                    "correct it, or allow it with allow_outside=True",
                    "correct it, or name a folder that holds all images",
                )
            )
            raise DataError(f"{sheet.place(row, sheet.columns.path)}: {cell!r} {error}", remedy) from error
        paths.append(path)
        missing.append(not there)
    return paths, missing


def _one_row_a_path(rows: Rows, sheet: Sheet) -> Rows:
    first: dict[str, int] = {}
    keep = []
    for row, path in enumerate(rows.path):
        other = first.setdefault(path, row)
        if other == row:
            keep.append(row)
        elif any(column[row] != column[other] for column in (rows.label, rows.patient, rows.partition)):
            raise DataError(
                f"{sheet.name} has '{path}' in rows {other + 1} and {row + 1}, and they differ: "
                f"{rows.label[other]!r} and {rows.label[row]!r}",
                f"keep one row an image; for several labels use {argument('label_delim')} or several label columns",
            )
    if len(keep) < len(rows.path):
        repeats = len(rows.path) - len(keep)
        rows.notes.append(f"{sheet.name} names {repeats} images again in further rows: each is used once")
        for column in ("path", "label", "patient", "partition", "problem"):
            setattr(rows, column, [getattr(rows, column)[row] for row in keep])
        rows.extra = rows.extra.iloc[keep].reset_index(drop=True)
    return rows


def _note_unlisted(rows: Rows, on_disk: Sequence[str], name: str) -> None:
    unlisted = sorted(set(on_disk) - set(rows.path))
    if unlisted:
        rows.notes.append(f"{len(unlisted)} images are not in {name} and are left out, first '{unlisted[0]}'")
