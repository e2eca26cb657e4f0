"""What the user gave (a folder, a CSV, a DataFrame, a list) made into rows, before any image is opened."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from medclf.dataset.cells import label_in, label_text
from medclf.dataset.columns import BLANK, POOR, Columns, Labels, Sheet, refuse_review
from medclf.dataset.csv_reading import read_csv
from medclf.dataset.folders import NOT_READ, BadPath, Finder, Tree, images_beside, walk, without_ending
from medclf.dataset.identity import instance_uid
from medclf.dataset.labels import Label, is_missing
from medclf.dataset.layouts import (
    CSV_SUFFIXES,
    labels_of_folders,
    masks_among,
    no_classes,
    patients_of_folders,
    surely_patient,
    where_labels_are,
)
from medclf.dataset.part_names import partition_of
from medclf.dataset.patient_tables import labels_of_patients
from medclf.dataset.spelt_names import SHOWN, some
from medclf.errors import DataError, argument, by_road, is_address, missing

FOLDER_OR_NONE = "folder or none"  # labels of the folders where these tell images apart, as beside boxes they need not
LabelFrom = str | re.Pattern[str] | Callable[[Path], object] | None

MISSING = "file is missing"


@dataclass
class Rows:
    """Equally long columns, one entry an image; `extra` holds the CSV's other columns.

    `label` is None where it is unknown, and () where an image has none of several labels; `unknown` has the labels that
    an image was not read for, None where there is no such image. `read_for` names the labels that have a column of
    their own: an image without that label is a negative of it.
    """

    root: Path
    path: list[str]
    label: list[Label | None]
    patient: list[str | None]
    partition: list[str | None]
    problem: list[str]
    extra: pd.DataFrame
    multi_label: bool = False
    unknown: list[tuple[str, ...]] | None = None
    read_for: list[str] = field(default_factory=list)
    ignored: int = 0
    notes: list[str] = field(default_factory=list)

    def keep(self, rows: Sequence[int]) -> None:
        """Leave out all other rows."""
        for column in ("path", "label", "patient", "partition", "problem"):
            setattr(self, column, [getattr(self, column)[row] for row in rows])
        self.unknown = self.unknown and [self.unknown[row] for row in rows]
        self.extra = self.extra.iloc[list(rows)].reset_index(drop=True)


@dataclass(frozen=True)
class Asked:
    """How `scan` was asked to read its source."""

    columns: Columns
    label_from: LabelFrom
    root: Path | None
    allow_outside: bool
    follow_links: bool = False
    label_from_parent: int | None = None
    where: Sequence[str] = ()


def read_source(source: Any, labels: Any, asked: Asked) -> Rows:
    """Turn any of `scan`'s sources into rows.

    Raises:
        DataError: there is no such folder or file, a column is missing, or a path is refused.
    """
    if isinstance(source, str) and not source:
        raise DataError("an empty text names no folder", "give a folder, a CSV, a DataFrame or a list of paths")
    if isinstance(source, (str, os.PathLike)):
        return _from_path(Path(source), labels, asked)
    _check_no_labels(labels)
    if isinstance(source, pd.DataFrame):
        return _from_sheet(Sheet(source, "the DataFrame", asked.columns), None, asked)
    if not isinstance(source, Iterable):
        kind = type(source).__name__
        raise DataError(f"a {kind} is no list of images", "give a folder, a CSV, a DataFrame or a list of paths")
    items = source.items() if isinstance(source, Mapping) else source
    _refuse_columns(asked, "a list has none", "make a DataFrame of it")
    return _from_sheet(_sheet_of_list(list(items), asked.columns), None, asked)


def _check_no_labels(labels: Any) -> None:
    if labels is not None:
        raise DataError(
            f"{argument('labels')} needs a folder of images",
            by_road("put the labels into the list, table or DataFrame", "give the folder as DATA"),
        )


_SHEETS = (".xlsx", ".xls", ".ods", ".parquet", ".json", ".jsonl")  # which `read_csv` says how to save


def _from_path(path: Path, labels: Any, asked: Asked) -> Rows:
    if not path.exists():
        raise DataError(*missing(path))
    if path.is_dir():
        return _from_folder(path, labels, asked)
    suffix, inner = path.suffix.lower(), Path(path.stem).suffix.lower()  # as of mimic-cxr-2.0.0-split.csv.gz
    if suffix not in (*CSV_SUFFIXES, ".txt", *_SHEETS) and inner not in CSV_SUFFIXES:
        first = f"{NOT_READ[suffix].replace('them', 'it')}, and " if suffix in NOT_READ else ""
        raise DataError(f"{path} is neither a folder nor a CSV file", f"{first}give the folder that holds the images")
    _check_no_labels(labels)
    sheet = Sheet(read_csv(path), path.name, asked.columns, is_text=True)
    root = asked.root or path.parent
    tree = (
        walk(root, allow_outside=asked.allow_outside or asked.follow_links)
        if is_uid_column(asked.columns.path)
        else None
    )
    rows = _from_sheet(sheet, tree, replace(asked, root=root))
    if not asked.where:
        _note_unlisted(rows, images_beside(rows.root, rows.path), path.name)
    return rows


def _from_folder(folder: Path, labels: Any, asked: Asked) -> Rows:
    tree = walk(folder, allow_outside=asked.allow_outside or asked.follow_links)
    if labels is None:
        if asked.root is not None:
            raise DataError("a folder is its own root", "leave root= out, or give a CSV, list or DataFrame")
        _refuse_columns(asked, f"{folder} is a folder, without a table", f"give a table with {argument('labels')}")
        return _from_tree(folder, tree, asked)
    if isinstance(labels, pd.DataFrame):
        sheet = Sheet(labels, "the DataFrame of labels", asked.columns)
    elif not isinstance(labels, (str, os.PathLike)):
        text = f"{argument('labels')} must be a CSV or a DataFrame, not a {type(labels).__name__}"
        raise DataError(text, "make a DataFrame of it, or give the paths with their labels in place of the folder")
    else:
        path = Path(labels)
        path = path if path.exists() or path.is_absolute() or is_address(path) else folder / path
        sheet = Sheet(read_csv(path), path.name, asked.columns, is_text=True)
    if asked.root is not None:
        return _from_sheet(sheet, None, asked)
    no_paths = asked.columns.path == Columns.path and Columns.path not in sheet.frame  # none is named that is not there
    if no_paths and asked.columns.patient in sheet.frame:
        paths, of_masks = _without_masks(tree.paths)
        tree = replace(tree, paths=paths)
        sheet = labels_of_patients(sheet, folder, paths)
        sheet.notes.extend(of_masks)
    rows = _from_sheet(sheet, tree, replace(asked, root=folder))
    if not asked.where:
        _note_unlisted(rows, tree.paths, sheet.name)
    return rows


def _without_masks(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """The paths but for those of masks, by their name, and what is said of these."""
    masks = set(masks_among(paths))
    if not masks:
        return list(paths), []
    return [path for path in paths if path not in masks], [
        f"{len(masks)} files are masks or drawings of other images by their name, and are left out, first "
        f"'{min(masks)}': a CSV can list them as images"
    ]


def _from_tree(root: Path, tree: Tree, asked: Asked) -> Rows:
    paths, of_masks = _without_masks(tree.paths)
    labels, problems, notes = _labels_from_paths(root, paths, asked)
    notes += of_masks
    patients = _patients_of_folders(paths, labels, notes) if asked.label_from == "folder" else [None] * len(paths)
    empty = [f"folder '{folder}' holds no image" for folder in tree.empty if asked.label_from == "folder"]
    if len(empty) > SHOWN:
        empty = [f"{len(empty)} folders hold no image: {some([repr(folder) for folder in tree.empty])}"]
    return Rows(
        root=root,
        path=paths,
        label=labels,
        patient=list(patients),
        partition=[partition_of(path) for path in paths],
        problem=problems,
        extra=pd.DataFrame(index=range(len(paths))),
        multi_label=asked.columns.label_delim is not None,
        ignored=tree.ignored + len(tree.paths) - len(paths),
        notes=[*tree.notes, *notes, *empty],
    )


def _patients_of_folders(
    paths: Sequence[str], labels: Sequence[Label | None], notes: list[str], least: int = 1
) -> Sequence[str | None]:
    """The patients that the folders above the images are called like, with a note; a DICOM file says its own itself.

    Fewer than `least` count only where their names leave no doubt: p1 and p2 may be pieces of the set.
    """
    headers = any(PurePosixPath(path).suffix.lower() in ("", ".dcm", ".dicom", ".dic", ".ima") for path in paths)
    patients = [] if headers else patients_of_folders(paths)
    names = set(filter(None, patients))
    doubtful = len(names) < least and not all(map(surely_patient, names))
    if not names or doubtful or names & set(labels):  # taken for classes, as was asked
        return [None] * len(paths)
    notes.append(f"{len(names)} patients are told by the names of folders")
    return patients


def _labels_from_paths(
    root: Path, paths: Sequence[str], asked: Asked
) -> tuple[list[Label | None], list[str], list[str]]:
    """Labels, problems and notes."""
    names, problems, notes = _names_from_paths(root, paths, asked)
    delimiter = asked.columns.label_delim
    if delimiter is None:
        return list(names), problems, notes
    labels = [None if name is None else label_in(name, delimiter, multi_label=True) for name in names]
    blank = [name is not None and label is None for name, label in zip(names, labels, strict=True)]
    return labels, [BLANK if gone else text for gone, text in zip(blank, problems, strict=True)], notes


def _names_from_paths(root: Path, paths: Sequence[str], asked: Asked) -> tuple[list[str | None], list[str], list[str]]:
    """Labels, problems and notes, before any name is taken apart."""
    label_from = asked.label_from
    if label_from is None:
        return [None] * len(paths), [""] * len(paths), []
    if label_from in ("folder", FOLDER_OR_NONE):
        labels, problems, notes = labels_of_folders(paths, asked.label_from_parent)
        if label_from == FOLDER_OR_NONE and (any(problems) or len(set(labels) - {None}) < 2):
            return [None] * len(paths), [""] * len(paths), []
        doubtful = any(problems) or len(set(labels) - {None}) < 2 or no_classes(labels)
        if doubtful and asked.root is None:  # where a root is known, a table was given
            notes += filter(None, [where_labels_are(root)])
        return labels, problems, notes
    if not (callable(label_from) or isinstance(label_from, re.Pattern)):
        raise DataError(
            f"label_from={label_from!r} is not known",
            'it takes "folder", a pattern from re.compile, a function of the path, or None for no labels',
        )
    found = [_label_of(root, path, label_from) for path in paths]
    return [label or None for label, _ in found], [problem for _, problem in found], []


def _label_of(root: Path, path: str, label_from: re.Pattern[str] | Callable[[Path], object]) -> tuple[str, str]:
    """The label and the problem of one image, of which one is empty."""
    if callable(label_from):
        found = label_from(root / path)
        if isinstance(found, (tuple, list, set, frozenset, dict)):
            raise DataError(
                f"label_from gave {found!r} for '{path}', and a label is one text",
                "give pairs of a path and its labels instead, or a column of them",
            )
        label = label_text(found)
        return label, "" if label else BLANK
    match = label_from.search(path.rpartition("/")[2])
    label = label_text(match.group(1 if label_from.groups else 0)) if match else ""
    return label, "" if label else f"its name does not match {label_from.pattern!r}"


def _refuse_columns(asked: Asked, what: str, remedy: str) -> None:
    """An option about a table's columns says nothing of `what`: its user believes that it does."""
    given, plain = asked.columns, Columns()
    said: dict[str, object] = {
        "path_col": given.path != plain.path,
        "label_col": given.label not in (plain.label, None),
    }
    said |= {"patient_col": given.patient, "partition_col": given.partition, "where": asked.where}
    said |= {name: getattr(given, name) for name in ("exclusive", "uncertain", "blank")}
    if wrong := [name for name, is_given in said.items() if is_given]:
        raise DataError(f"{argument(wrong[0])} is about a table's columns, and {what}", f"{remedy}, or leave it out")


def _sheet_of_list(items: list[Any], columns: Columns) -> Sheet:
    pairs = [item if isinstance(item, (tuple, list)) else (item,) for item in items]
    lengths = {len(pair) for pair in pairs}
    if not lengths <= {1} and lengths != {2}:
        raise DataError("the list mixes paths and pairs", "give paths alone, or (path, label) for every image")
    wrong = next((pair[0] for pair in pairs if not isinstance(pair[0], (str, bytes, os.PathLike))), None)
    if wrong is not None:
        text = f"the list holds a {type(wrong).__name__} where a path should be"
        raise DataError(text, "give paths, pairs of a path and a label, or a DataFrame")
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
    of_paths = asked.label_from != "folder" or asked.label_from_parent is not None
    if sheet.columns.label == "label" and "label" not in sheet.frame and of_paths:
        sheet = replace(sheet, columns=replace(sheet.columns, label=None))
    sheet.require_columns()
    if sheet.frame.empty:
        raise DataError(f"{sheet.name} has no rows", "give a row for each image")
    if sheet.columns.label == "label":
        refuse_review(sheet.name, sheet.frame, sheet.texts)
    if asked.where:
        sheet = sheet.where(asked.where)
    cells = sheet.texts(sheet.columns.path)
    root = asked.root if asked.root is not None else _shared_folder(cells)
    if tree and is_uid_column(sheet.columns.path):
        cells = _paths_of_uids(sheet, cells, root, tree)
    allow = asked.allow_outside
    finder = Finder(root, tree, allow_outside=allow, follow_links=asked.follow_links, masks_among=masks_among)
    paths, missing = _find_paths(sheet, cells, finder)
    sheet, paths, missing = _folders_opened(sheet, paths, missing, root)
    labels, problems, unknown, multi_label = _labels_of(sheet, root, paths, asked)
    patients: Sequence[str | None] = sheet.patients()
    if not (asked.columns.patient or sheet.unasked("patient")):
        patients = _patients_of_folders(paths, labels, sheet.notes, least=5)
    rows = Rows(
        root=root,
        path=paths,
        label=labels,
        patient=list(patients),
        partition=sheet.partitions([partition_of(path) for path in paths]),
        problem=[gone or problem for gone, problem in zip(missing, problems, strict=True)],
        extra=sheet.extra(),
        multi_label=multi_label,
        unknown=unknown if any(unknown) else None,
        read_for=list(sheet.columns.label) if multi_label and isinstance(sheet.columns.label, list) else [],
        ignored=tree.ignored if tree else 0,
        notes=[*(tree.notes if tree else []), *sheet.notes],
    )
    return _one_row_a_path(rows, sheet)


def _labels_of(sheet: Sheet, root: Path, paths: Sequence[str], asked: Asked) -> Labels:
    """From the sheet's column of labels; from the paths where it has none."""
    if sheet.columns.label is None:
        labels, problems, notes = _labels_from_paths(root, paths, asked)
        sheet.notes.extend(notes)
        return labels, problems, [()] * len(paths), asked.columns.label_delim is not None
    if asked.label_from_parent is not None:
        text = f"{argument('label_from_parent')} takes the labels from folders, and {sheet.name} has labels"
        raise DataError(text, "leave one of them out")
    labels, problems, unknown, multi_label = sheet.labels()
    if sheet.columns.label == "label" and "mark" in sheet.frame:  # a sheet of label-next, or of a second read
        marks = sheet.texts("mark")
        problems = [POOR if mark.casefold() == POOR else said for mark, said in zip(marks, problems, strict=True)]
    return labels, problems, unknown, multi_label


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
    named = {PurePosixPath(without_ending(path)).name for path in tree.paths}  # pictures that are called by their UID
    uids_or_none = [uid if uid in named else f"row {row}, no file has its UID" for row, uid in enumerate(uids, start=1)]
    return [path_of.get(uid, found) for uid, found in zip(uids, uids_or_none, strict=True)]


def _find_paths(sheet: Sheet, cells: list[str], finder: Finder) -> tuple[list[str], list[str]]:
    """The path of each row, and why there is no such file, "" where there is."""
    paths, missing = [], []
    for row, cell in enumerate(cells):
        try:
            path, there = finder.find(cell)
        except BadPath as error:
            raise DataError(f"{sheet.place(row, sheet.columns.path)}: {cell!r} {error}", error.remedy) from error
        like = "" if there else finder.like(path)
        paths.append(path)
        missing.append("" if there else f"{MISSING} (there is '{like}')" if like else MISSING)
    if finder.guessed:
        cell, path = finder.guessed[0]
        sheet.notes.append(
            f"{len(finder.guessed)} paths of {sheet.name} were found as others, first '{cell}' as '{path}'"
        )
    return paths, missing


def _folders_opened(
    sheet: Sheet, paths: list[str], missing: list[str], root: Path
) -> tuple[Sheet, list[str], list[str]]:
    """A row that names a folder, as a study's, becomes a row for each image in or below it."""
    held = [_images_below(root, path, sheet.notes) if (root / path).is_dir() else [] for path in paths]
    if not any(held):
        return sheet, paths, missing
    rows = [row for row, images in enumerate(held) for _ in images or [""]]
    opened, n = sum(map(bool, held)), sum(map(len, held))
    sheet.notes.append(
        f"{opened} of {len(paths)} rows of {sheet.name} name folders: each of the {n} images in them has its folder's "
        "label. Where no patients are known, images of one folder may be in both training and validation set: "
        f"{argument('unit', 'folder')} keeps each folder together, with one answer"
    )
    named = [name for path, images in zip(paths, held, strict=True) for name in images or [path]]
    frame = sheet.frame.iloc[rows].reset_index(drop=True)
    return replace(sheet, frame=frame, name=f"{sheet.name} (a row an image)"), named, [missing[row] for row in rows]


def _images_below(root: Path, folder: str, notes: list[str]) -> list[str]:
    tree = walk(root / folder)
    paths, of_masks = _without_masks(tree.paths)
    notes += [*tree.notes, *of_masks]
    return [(PurePosixPath(folder) / path).as_posix() for path in paths]


def _one_row_a_path(rows: Rows, sheet: Sheet) -> Rows:
    first: dict[str, int] = {}
    keep, differ = [], set[str]()
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
        else:
            further = (str(name) for name, cells in rows.extra.items() if not _same(cells.iloc[row], cells.iloc[other]))
            differ.update(further)
    if len(keep) < len(rows.path):
        repeats = len(rows.path) - len(keep)
        named = ", ".join(map(repr, sorted(differ)[:5]))
        chosen = f", with the first row's {named}, which differ" if differ else ""
        rows.notes.append(f"{sheet.name} names {repeats} images again in further rows: each is used once{chosen}")
        rows.keep(keep)
    return rows


def _same(one: object, other: object) -> bool:
    return (is_missing(one) and is_missing(other)) or str(one) == str(other)


def _note_unlisted(rows: Rows, on_disk: Sequence[str], name: str) -> None:
    framed = {path.rpartition("#")[0] for path in set(rows.path) - set(on_disk)}  # files of which it names frames
    unlisted = sorted(set(on_disk) - set(rows.path) - framed)
    if unlisted:
        have = "image file is not in {} and is" if len(unlisted) == 1 else "image files are not in {} and are"
        rows.notes.append(f"{len(unlisted)} {have.format(name)} left out, first '{unlisted[0]}'")
    if n := len(framed & set(on_disk)):
        rows.notes.append(f"{name} names frames of {n} {'file' if n == 1 else 'files'}: only these frames are used")
