"""What the user gave (a folder, a CSV, a DataFrame, pairs) made into rows: path, label, patient, partition."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from medclf.data.tree import PARTITION_NAMES, BadPath, Finder, Tree, partition_of, walk
from medclf.errors import DataError

Label = str | tuple[str, ...]
LabelFrom = str | re.Pattern[str] | Callable[[Path], object] | None

BLANK = "blank label"
MISSING = "file is missing"
NO_CLASS_FOLDER = "no class folder above it"


@dataclass(frozen=True)
class Columns:
    """Which columns of a CSV or DataFrame mean what."""

    path: str = "path"
    label: str | list[str] | None = "label"
    label_delim: str | None = None
    patient: str | None = None
    partition: str | None = None


@dataclass
class Rows:
    """Equally long columns, one entry an image, before any file has been opened."""

    root: Path
    path: list[str]
    label: list[Label | None]
    patient: list[str | None]
    partition: list[str | None]
    problem: list[str]
    extra: pd.DataFrame
    multi_label: bool = False
    ignored: int = 0
    notes: list[str] = field(default_factory=list)


def read_source(
    source: Any,
    labels: Any,
    columns: Columns,
    label_from: LabelFrom,
    root: str | Path | None,
    allow_outside: bool,
) -> Rows:
    """Turn any of `scan`'s sources into rows.

    Raises:
        DataError: there is no such folder or file, a column is missing, or a path is refused.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.is_dir():
            return _from_folder(path, labels, columns, label_from, root, allow_outside)
        if not path.exists():
            raise DataError(f"{path}: there is no such folder or file", "check the path for typing mistakes")
        if path.suffix.lower() not in (".csv", ".tsv", ".txt"):
            raise DataError(f"{path} is neither a folder nor a CSV file", "give the folder that holds the images")
        frame, root = read_csv(path), Path(root) if root else path.parent
        return rows_from_frame(frame, path.name, root, None, columns, label_from, allow_outside)
    if isinstance(source, pd.DataFrame):
        frame, name = source, "the DataFrame"
    else:
        frame, columns = _frame_of_pairs(list(source), columns)
        name = "the list"
    top = Path(root) if root is not None else _root_of([str(cell) for cell in frame.get(columns.path, [])])
    return rows_from_frame(frame, name, top, None, columns, label_from, allow_outside)


def _from_folder(
    folder: Path, labels: Any, columns: Columns, label_from: LabelFrom, root: str | Path | None, allow_outside: bool
) -> Rows:
    tree = walk(folder, allow_outside=allow_outside)
    if labels is None:
        return rows_from_tree(folder, tree, label_from)
    if isinstance(labels, pd.DataFrame):
        frame, name = labels, "the DataFrame of labels"
    else:
        path = Path(labels)
        path = path if path.exists() or path.is_absolute() else folder / path
        frame, name = read_csv(path), path.name
    top = Path(root) if root is not None else folder
    known = tree if top == folder else None
    return rows_from_frame(frame, name, top, known, columns, label_from, allow_outside)


def rows_from_tree(root: Path, tree: Tree, label_from: LabelFrom) -> Rows:
    """One row an image file; labels and partitions from its folders, a pattern or a function."""
    n = len(tree.paths)
    labels, problems = _labels_from_paths(root, tree.paths, label_from)
    rows = Rows(
        root=root,
        path=tree.paths,
        label=labels,
        patient=[None] * n,
        partition=[partition_of(path) for path in tree.paths],
        problem=problems,
        extra=pd.DataFrame(index=range(n)),
        ignored=tree.ignored,
        notes=list(tree.notes),
    )
    if label_from == "folder":
        rows.notes += [f"folder '{folder}' holds no image" for folder in tree.empty]
    return rows


def _labels_from_paths(root: Path, paths: Sequence[str], label_from: LabelFrom) -> tuple[list[Label | None], list[str]]:
    if label_from is None:
        return [None] * len(paths), [""] * len(paths)
    if isinstance(label_from, str) and label_from != "folder":
        raise DataError(
            f"label_from={label_from!r} is not known",
            'it takes "folder", a compiled pattern (re.compile), a function of the path, or None for no labels',
        )
    found = [_label_of(root, path, label_from) for path in paths]
    return [label or None for label, _ in found], [problem for _, problem in found]


def _label_of(root: Path, path: str, label_from: Any) -> tuple[str, str]:
    if callable(label_from):
        label = label_text(label_from(root / path))
        return label, "" if label else BLANK
    if isinstance(label_from, re.Pattern):
        match = label_from.search(path.rpartition("/")[2])
        label = match.group(1 if label_from.groups else 0) if match else None
        return (label.strip(), "") if label else ("", f"name does not match {label_from.pattern!r}")
    folder = path.rpartition("/")[0].rpartition("/")[2]
    if folder and folder.lower() not in PARTITION_NAMES:
        return folder, ""
    return "", "" if partition_of(path) == "test" else NO_CLASS_FOLDER


def read_csv(path: Path) -> pd.DataFrame:
    """Read a CSV with every cell as text: a label "NA", "None" or "001" stays what it is.

    Commas, semicolons and tabs are told apart by the header.

    Raises:
        DataError: it is missing, empty, or not UTF-8 text.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
        delimiter = max(",;\t", key=header.count)
        frame = pd.read_csv(path, sep=delimiter, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, UnicodeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).strip()
        raise DataError(f"{path} cannot be read as CSV: {reason}", "save it as UTF-8 CSV with a header line") from error
    return frame.astype(object)


def _frame_of_pairs(items: list[Any], columns: Columns) -> tuple[pd.DataFrame, Columns]:
    pairs = [item if isinstance(item, (tuple, list)) else (item,) for item in items]
    if any(len(pair) != len(pairs[0]) or len(pair) > 2 for pair in pairs):
        raise DataError("the list mixes paths and pairs", "give paths alone, or (path, label) for every image")
    labelled = bool(pairs) and len(pairs[0]) == 2
    frame = pd.DataFrame({"path": pd.Series([str(pair[0]) for pair in pairs], dtype=object)})
    if labelled:
        frame["label"] = pd.Series([pair[1] for pair in pairs], dtype=object)
    return frame, Columns("path", "label" if labelled else None, columns.label_delim)


def _root_of(paths: list[str]) -> Path:
    """The folder that all of `paths` lie in where all are absolute, else the current folder."""
    if paths and all(os.path.isabs(path) for path in paths):
        return Path(os.path.commonpath([os.path.dirname(path) for path in paths]))
    return Path()


def rows_from_frame(
    frame: pd.DataFrame,
    name: str,
    root: Path,
    tree: Tree | None,
    columns: Columns,
    label_from: LabelFrom,
    allow_outside: bool,
) -> Rows:
    """One row a line of the frame, checked cell by cell but with no file opened.

    Args:
        frame: the CSV or DataFrame.
        name: what errors call it.
        root: where its relative paths start.
        tree: the files under root where they have been listed.
        columns: which column means what.
        label_from: where labels come from when there is no label column.
        allow_outside: accept paths that lead out of root.

    Raises:
        DataError: a column is missing, a path is refused, or a cell has no meaning.
    """
    frame = frame.reset_index(drop=True)
    columns = _with_defaults(frame, columns, label_from)
    _require_columns(frame, name, columns)
    paths, missing = _find_paths(frame[columns.path], name, root, tree, columns.path, allow_outside)
    if columns.label is None:
        labels, problems = _labels_from_paths(root, paths, label_from)
        multi_label = False
    else:
        labels, problems, multi_label = _labels_from_cells(frame, name, columns)
    rows = Rows(
        root=root,
        path=paths,
        label=labels,
        patient=[label_text(cell) or None for cell in frame[columns.patient]] if columns.patient else [None] * len(frame),
        partition=_partitions(frame, name, paths, columns.partition),
        problem=[MISSING if gone else problem for gone, problem in zip(missing, problems, strict=True)],
        extra=_extra_columns(frame, columns),
        multi_label=multi_label,
        ignored=tree.ignored if tree else 0,
        notes=list(tree.notes) if tree else [],
    )
    return _one_row_a_path(rows, name)


def _with_defaults(frame: pd.DataFrame, columns: Columns, label_from: LabelFrom) -> Columns:
    """Columns named as in scan's own table are taken without being asked for."""
    label = columns.label
    if label == "label" and label not in frame.columns and label_from != "folder":
        label = None
    patient = columns.patient or ("patient" if "patient" in frame.columns else None)
    partition = columns.partition or ("partition" if "partition" in frame.columns else None)
    return Columns(columns.path, label, columns.label_delim, patient, partition)


def _require_columns(frame: pd.DataFrame, name: str, columns: Columns) -> None:
    label = [columns.label] if isinstance(columns.label, str) else columns.label or []
    wanted = [("path_col", columns.path), *(("label_col", column) for column in label)]
    wanted += [("patient_col", columns.patient), ("partition_col", columns.partition)]
    for argument, column in wanted:
        if column is not None and column not in frame.columns:
            present = ", ".join(f"'{column}'" for column in frame.columns)
            raise DataError(f"{name} has no column '{column}'; it has {present}", f"name the right one with {argument}=")


def _find_paths(
    cells: pd.Series, name: str, root: Path, tree: Tree | None, column: str, allow_outside: bool
) -> tuple[list[str], list[bool]]:
    finder = Finder(root, tree.paths if tree else None, allow_outside=allow_outside)
    paths, missing = [], []
    for row, cell in enumerate(cells, start=1):
        text = label_text(cell)
        try:
            if not text:
                raise BadPath("is blank")
            path, there = finder.find(text)
        except BadPath as error:
            remedy = "correct the path" if allow_outside else "correct the path, or pass allow_outside=True to allow it"
            raise DataError(f"{name}, row {row}, column '{column}': {text!r} {error}", remedy) from error
        paths.append(path)
        missing.append(not there)
    return paths, missing


def label_text(cell: object) -> str:
    """A cell as a label: stripped text, "" for none; a whole float (pandas' int with gaps) loses its ".0".

    Example:
        >>> label_text(1.0), label_text(" polyp "), label_text(float("nan")), label_text(None)
        ('1', 'polyp', '', '')
    """
    if cell is None or cell is pd.NA or cell is pd.NaT or (isinstance(cell, float) and cell != cell):
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()


def _labels_from_cells(frame: pd.DataFrame, name: str, columns: Columns) -> tuple[list[Label | None], list[str], bool]:
    if isinstance(columns.label, list):
        return _labels_from_flags(frame, name, columns.label), [""] * len(frame), True
    cells = frame[columns.label]
    multi_label = columns.label_delim is not None or any(isinstance(cell, (tuple, list, set)) for cell in cells)
    labels: list[Label | None] = []
    problems = []
    for cell in cells:
        if not multi_label:
            label: Label = label_text(cell)
        elif isinstance(cell, (tuple, list, set)):
            label = tuple(dict.fromkeys(label_text(part) for part in cell))
        else:
            label = tuple(dict.fromkeys(part.strip() for part in label_text(cell).split(columns.label_delim)))
        blank = "" in label if isinstance(label, tuple) else not label
        labels.append(None if blank else label)
        problems.append(BLANK if blank else "")
    return labels, problems, multi_label


def _labels_from_flags(frame: pd.DataFrame, name: str, columns: list[str]) -> list[Label | None]:
    """Several columns of 0 and 1; a row of zeros is legal and means no finding."""
    flags = {}
    for column in columns:
        texts = [label_text(cell).lower() for cell in frame[column]]
        odd = next((row for row, text in enumerate(texts) if text not in _TRUE | _FALSE), None)
        if odd is not None:
            raise DataError(
                f"{name}, row {odd + 1}, label column '{column}': {frame[column].iloc[odd]!r} is neither 0 nor 1",
                "decide what it means and write 0 or 1",
            )
        flags[column] = [text in _TRUE for text in texts]
    return [tuple(column for column in columns if flags[column][row]) for row in range(len(frame))]


_TRUE, _FALSE = frozenset({"1", "1.0", "true"}), frozenset({"0", "0.0", "false"})


def _partitions(frame: pd.DataFrame, name: str, paths: list[str], column: str | None) -> list[str | None]:
    if column is None:
        return [partition_of(path) for path in paths]
    texts = [label_text(cell).lower() for cell in frame[column]]
    if set(texts) <= _TRUE | _FALSE:  # fastai's is_valid
        return ["valid" if text in _TRUE else "train" for text in texts]
    for row, text in enumerate(texts, start=1):
        if text and text not in PARTITION_NAMES:
            known = ", ".join(PARTITION_NAMES)
            raise DataError(f"{name}, row {row}, column '{column}': '{text}' is no partition", f"write one of {known}")
    return [PARTITION_NAMES.get(text) for text in texts]


RESERVED = ("path", "label", "patient", "partition", "width", "height", "sha256", "problem")


def _extra_columns(frame: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    """The columns that have no meaning here (sex, view, group...), numbers where all of a column are."""
    used = {columns.path, columns.patient, columns.partition, *RESERVED}
    used |= {columns.label} if isinstance(columns.label, str) else set(columns.label or [])
    extra = frame[[column for column in frame.columns if column not in used]].copy()
    for column in extra.columns:
        texts = [label_text(cell) for cell in extra[column]] if extra[column].dtype == object else [""]
        filled = [text for text in texts if text]
        if filled and all(re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?", text) for text in filled):
            extra[column] = pd.to_numeric(pd.Series(texts, dtype=object).replace("", None))
    return extra


def _one_row_a_path(rows: Rows, name: str) -> Rows:
    first: dict[str, int] = {}
    keep = []
    for row, path in enumerate(rows.path):
        other = first.setdefault(path, row)
        if other == row:
            keep.append(row)
        elif any(column[row] != column[other] for column in (rows.label, rows.patient, rows.partition)):
            raise DataError(
                f"{name} has '{path}' twice, in rows {other + 1} and {row + 1}, and they differ: "
                f"{rows.label[other]!r} and {rows.label[row]!r}",
                "keep one row an image; for several labels use label_delim= or several label columns",
            )
    repeated = len(rows.path) - len(keep)
    if repeated:
        rows.notes.append(f"{name} repeats {repeated} rows word for word: each image is used once")
    for column in ("path", "label", "patient", "partition", "problem"):
        setattr(rows, column, [getattr(rows, column)[row] for row in keep])
    rows.extra = rows.extra.iloc[keep].reset_index(drop=True)
    return rows
