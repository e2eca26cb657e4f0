"""scan(): one row an image, from a folder, a CSV, a DataFrame, pairs or a DICOM tree."""

from __future__ import annotations

import hashlib
import stat
import warnings
from collections.abc import Callable, Mapping, Sequence, Sized
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from medclf.config import Frame, Policy, TrainConfig, Window
from medclf.dataset.choice import Merges, choose, conditions
from medclf.dataset.columns import Columns
from medclf.dataset.frames import number_frames, take_frames
from medclf.dataset.identity import (
    doubtful_ids,
    patient_id,
    patients_in_names,
    project_key,
    pseudonym,
    unnamed_patients,
)
from medclf.dataset.kinds import (
    frame_warnings,
    kind_warnings,
    level_warnings,
    mask_warnings,
    origin_columns,
    own_window_warnings,
    spread_warnings,
    volume_warnings,
    why_no_picture,
    windows_shown,
)
from medclf.dataset.label_warnings import label_warnings
from medclf.dataset.labels import label_set, usable
from medclf.dataset.matching import UNKNOWN
from medclf.dataset.ordinal import order_not_used, ordered_labels
from medclf.dataset.remedies import remedy_for
from medclf.dataset.sources import MISSING, Asked, LabelFrom, Rows, read_source
from medclf.dataset.spelt_names import one_name_each
from medclf.errors import DataError, MedclfWarning, ReadError, argument
from medclf.files import sha256_of
from medclf.images import dicom, reading
from medclf.images.frame_names import file_and_frame, file_of
from medclf.images.windowing import resolve_window
from medclf.options import options
from medclf.parallel import map_ahead
from medclf.progress import watch

__all__ = ["COLUMNS", "inspect", "label_set", "scan", "usable", "with_problems"]

Check = Callable[[Sequence[str], Sequence[str]], Mapping[str, reading.Look | str]]
COLUMNS = ("path", "label", "patient", "partition", "width", "height", "sha256", "problem")


def scan(
    source: Any,
    *,
    labels: str | Path | pd.DataFrame | None = None,
    path_col: str = "path",
    label_col: str | list[str] | None = "label",
    label_delim: str | None = None,
    patient_col: str | None = None,
    partition_col: str | None = None,
    strict: bool = False,
    check_pixels: bool | Check = True,
    progress: bool = True,
    label_from: LabelFrom = "folder",
    label_from_parent: int | None = None,
    root: str | Path | None = None,
    allow_outside: bool = False,
    follow_links: bool = False,
    exclusive: bool = False,
    uncertain: Policy | None = None,
    blank: Policy | None = None,
    where: Mapping[str, Any] | Sequence[str] | str | None = None,
    merge: Merges | None = None,
    drop: Sequence[str] | str | None = None,
    limit: int | None = None,
    ordinal: str | Sequence[str] | None = None,
    frame: Frame = "middle",
    window: Window = None,
) -> pd.DataFrame:
    """Make a table of images, one row each, sorted by path; every file is opened and checked.

    Args:
        source: a folder, a CSV, a DataFrame, a list of paths, or a list of (path, label) pairs.
        labels: a CSV or DataFrame of labels for a folder of images.
        path_col: its column of paths, relative to the folder, else to the CSV's own folder.
        label_col: its column of labels; a list of columns of 0 and 1 makes the task multi-label (an image without
            a 1 has no finding); None takes the labels from `label_from`.
        label_delim: separates several labels in one cell, as in "Effusion|Nodule"; the task is multi-label. A cell
            "(none)" says that there is no finding; a blank one that the labels are unknown.
        patient_col: its column of patients; DICOM files say theirs themselves. Either way the table holds
            pseudonyms, made with a key that is kept outside of all outputs (see `medclf.dataset.identity`).
        partition_col: its column of partitions: train, valid (or val, validation), test; or fastai's
            is_valid of True and False.
        strict: raise for a file that cannot be used, instead of warning and going on without it.
        check_pixels: decode every image; False reads only the headers. A function that decodes the images for a
            purpose of its own, such as a store (see `decoding`), spares a second look: it is given paths and hashes,
            and returns each path's width, height and number of levels, or why it cannot be read.
        progress: show a progress bar when it lasts.
        label_from: where there is no column of labels: "folder" (the folder that holds the image), a
            compiled pattern searched in the file's name (its first group is the label), a function of
            the path, "folder or none" (none, where folders do not tell all images apart), or None for images without
            labels.
        label_from_parent: take the label from this folder above the image: 1 holds it, 2 lies above that one. By
            default the folder that holds it, where its name tells no part or role (train, images).
        root: the folder that paths start from, where it is not the source.
        allow_outside: allow paths and links that lead out of the root.
        follow_links: allow links in the root to files outside of it, as git-annex and DVC keep them.
        exclusive: columns of 0 and 1 name classes that exclude each other: one label an image.
        uncertain: what -1 in a column of 0 and 1 counts as, as CheXpert writes it: "negative", "positive", "unknown"
            (the image is not measured by that label, and cannot be trained on) or "exclude" (it is left out). An
            error where None.
        blank: the same for blank cells.
        where: use only rows with these values: {"view": "PA", "age": ["1", "2"]}, or texts "view=PA", "age!=1".
        merge: labels that become one: {"malignant": ["mel", "bcc"]}, or texts "malignant=mel+bcc".
        drop: labels that are not used. Their images are left out; of several labels, only the label is.
        limit: use about so many images: whole patients, classes and partitions in proportion; of files of several
            frames, with `frame="all"`, so many files.
        ordinal: the labels have an order: their names, lowest grade first; "auto" sorts them by the number in each.
        frame: which frame of a file of several is looked at, as `read_pixels` takes it; "all" makes a row of each
            frame, page or slice, whose path is FILE#NUMBER: see `with_units`. Its number is in `frame_number`.
        window: through which grey files are looked at, as `read_pixels` takes it.

    Returns:
        A DataFrame with the columns path (relative to `df.attrs["root"]`, forward slashes), label (str; multi-label:
        tuple of str, () for no finding; None where it is unknown), patient (a pseudonym or None), partition ("train",
        "valid", "test" or None), unknown (the labels that an image was not read for, where there are any), width and
        height (pixels), sha256 (of the file), problem ("" or why the image is not used), of DICOM files modality,
        sop_class, study and series (pseudonyms) and instance (the Instance Number), then the other columns of the CSV.
        `df.attrs` also holds "multi_label"; "ignored", the number of files passed over because they are no images;
        "labels", the columns of 0 and 1; and "ordinal", the labels in their order, where they have one.

    Raises:
        DataError: no image, no usable image, a missing column, a refused path, two labels for one image;
            with `strict`, also any file that cannot be used.

    Warns:
        MedclfWarning: which files have a problem, which classes are empty, of one image, or not in train.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in [f"train/{c}/{i}.png" for c in ("normal", "polyp") for i in (1, 2)]:
        ...     (folder / name).parent.mkdir(parents=True, exist_ok=True)
        ...     Image.new("L", (8, 6)).save(folder / name)
        >>> scan(folder)[["path", "label", "partition", "width"]]
                       path   label partition  width
        0  train/normal/1.png  normal     train      8
        1  train/normal/2.png  normal     train      8
        2   train/polyp/1.png   polyp     train      8
        3   train/polyp/2.png   polyp     train      8
    """
    resolve_window(window)  # a wrong one is told before anything is opened
    given = {"uncertain": uncertain, "blank": blank, "limit": limit, "label_from_parent": label_from_parent}
    for name in (name for name, value in given.items() if value is not None):
        options(TrainConfig)[name].checked(given[name])
    label_col = list(label_col) if isinstance(label_col, (tuple, pd.Index, pd.Series, np.ndarray)) else label_col
    columns = Columns(path_col, label_col, label_delim, patient_col, partition_col, exclusive, uncertain, blank)
    given_root = Path(root) if root is not None else None
    asked = Asked(columns, label_from, given_root, allow_outside, follow_links, label_from_parent, conditions(where))
    rows = read_source(source, labels, asked)
    if not rows.path:
        known = " ".join(sorted(reading.IMAGE_SUFFIXES - {""}))
        told = "".join(f". {note[:1].upper()}{note[1:]}" for note in rows.notes)
        raise DataError(
            f"{rows.root} holds no image ({rows.ignored} other files){told}", f"images end in one of {known}"
        )
    choose(rows, merge or (), drop or (), limit, "files" if frame == "all" else "images")
    if frame == "all":
        take_frames(rows)
    elif any(path.rpartition("#")[2].isdecimal() and "#" in path for path in rows.path):
        number_frames(rows)
    order = None if ordinal is None or (isinstance(ordinal, Sized) and not len(ordinal)) else _order(rows, ordinal)
    given_table = source if labels is None else labels
    if not order and isinstance(given_table, pd.DataFrame) and isinstance(label_col, str):
        rows.notes.extend(order_not_used(given_table.get(label_col)))
    table = _open_all(rows, check_pixels, progress, frame, window)
    if order:
        table.attrs["ordinal"] = order
    _tell(table, rows, strict)
    return table


def _order(rows: Rows, ordinal: str | Sequence[str]) -> list[str]:
    """The labels in their order.

    Raises:
        DataError: an image may have several, or it cannot be told.
    """
    if rows.multi_label:
        text = f"{argument('ordinal')} gives each image one grade, and the images may have several labels"
        raise DataError(text, f"leave {argument('ordinal')} out, or name one column of grades")
    return ordered_labels({str(label) for label in rows.label if label is not None}, ordinal)


class Facts(NamedTuple):
    """What opening a file tells."""

    width: int = 0
    height: int = 0
    sha256: str = ""
    problem: str = ""
    format: str = ""
    levels: int | None = None
    origin: dicom.Origin | None = None
    n_frames: int = 1  # of the file that it is one frame of
    spread: bool = False  # from its smallest to its largest value, where no window is given
    window: tuple[float, float] | None = None  # a DICOM file's own, where that is in Hounsfield units


def _open_all(rows: Rows, check_pixels: bool | Check, progress: bool, frame: Frame, window: Window) -> pd.DataFrame:
    """The table of the rows, with what each file tells; what people should know of the files goes to the notes."""
    facts = _facts(rows, check_pixels, progress, frame, window)
    key = _hide_patients(rows, [row for row, fact in enumerate(facts) if fact.format == "DICOM"])
    if not any(rows.patient):
        rows.notes.extend(unnamed_patients(rows.extra) or patients_in_names(rows.path))
    shown = _note_kinds(rows, facts, frame, window)
    table = pd.concat([pd.DataFrame(_columns_of(rows, facts, key)), rows.extra], axis=1)
    table = table.sort_values("path", kind="stable", ignore_index=True)
    table.attrs.update(root=str(rows.root.absolute()), multi_label=rows.multi_label, ignored=rows.ignored)
    if shown:
        table.attrs["own_windows"] = shown
    if rows.read_for:
        table.attrs["labels"] = rows.read_for
    return table


def _facts(rows: Rows, check_pixels: bool | Check, progress: bool, frame: Frame, window: Window) -> list[Facts]:
    def facts_of(row: int) -> Facts:
        if rows.problem[row].startswith(MISSING):
            return Facts(problem=rows.problem[row])
        path = rows.root / rows.path[row]
        elsewhere = callable(check_pixels) and not rows.problem[row]  # those with a problem nobody else decodes
        facts = inspect(path, "file" if elsewhere else "pixels" if check_pixels else "header", frame, window)
        return facts if facts.problem else facts._replace(problem=rows.problem[row])

    n = len(rows.path)
    facts = list(watch(map_ahead(facts_of, range(n)), n, "Checking images", progress=progress))
    return _checked(rows, facts, check_pixels) if callable(check_pixels) else facts


def _columns_of(rows: Rows, facts: Sequence[Facts], key: bytes) -> dict[str, Any]:
    """The table's own columns; `key` is what the pseudonyms of studies are made with."""
    data: dict[str, Any] = {
        column: pd.Series(getattr(rows, column), dtype=object) for column in ("path", "label", "patient", "partition")
    }
    if rows.unknown:
        data[UNKNOWN] = pd.Series(rows.unknown, dtype=object)
    data["width"] = [fact.width for fact in facts]
    data["height"] = [fact.height for fact in facts]
    data["sha256"] = pd.Series([fact.sha256 for fact in facts], dtype=object)
    data["problem"] = pd.Series([fact.problem for fact in facts], dtype=object)
    if any(fact.origin for fact in facts):
        columns = origin_columns([fact.origin for fact in facts], key)
        data |= {name: cells for name, cells in columns.items() if name not in rows.extra}
    return data


def _note_kinds(rows: Rows, facts: Sequence[Facts], frame: Frame, window: Window) -> dict[str, int]:
    """Note what is odd about the files, one by one or beside each other; and which windows of their own they have."""
    sound = [(path, fact) for path, fact in zip(rows.path, facts, strict=True) if not fact.problem]
    rows.notes.extend(kind_warnings({path: fact.origin for path, fact in sound if fact.origin}))
    rows.notes.extend(frame_warnings({path: fact.n_frames for path, fact in sound}, frame))
    rows.notes.extend(volume_warnings([path for path, fact in sound if fact.format == "NIfTI"], rows.root))
    shown: dict[str, int] = {}
    if resolve_window(window) is None:
        rows.notes.extend(spread_warnings({path: fact.spread for path, fact in sound if fact.origin}))
        own = {path: fact.window for path, fact in sound if fact.window}
        rows.notes.extend(own_window_warnings(own))
        shown = windows_shown([*own.values()], sum(fact.spread for _, fact in sound))
    origins = {path: fact.origin for path, fact in zip(rows.path, facts, strict=True) if fact.origin}
    levels = {path: fact.levels for path, fact in sound if fact.levels is not None}
    rows.notes.extend(level_warnings(levels, origins, rows.root))
    rows.notes.extend(mask_warnings({path: (fact.width, fact.height) for path, fact in sound}, levels))
    return shown


def _checked(rows: Rows, facts: list[Facts], check: Check) -> list[Facts]:
    """The facts, with the sizes and the problems that `check` finds when it decodes those that have none yet."""
    paths = [str(rows.root / path) for path in rows.path]
    sound = {path: fact.sha256 for path, fact in zip(paths, facts, strict=True) if not fact.problem}
    found = check(list(sound), list(sound.values()))

    def checked(path: str, fact: Facts) -> Facts:
        if path not in sound:
            return fact
        said = found[path]
        if isinstance(said, str):
            return Facts(sha256=fact.sha256, problem=said)
        return fact._replace(width=said.width, height=said.height, levels=said.levels)

    return [checked(path, fact) for path, fact in zip(paths, facts, strict=True)]


def _hide_patients(rows: Rows, dicom_rows: list[int]) -> bytes:
    """Put pseudonyms in place of patient ids: those of the columns, else those that DICOM files hold.

    Returns:
        The project's key; empty where there is nothing to hide.
    """
    known = [patient for patient in rows.patient if patient is not None]
    if not known and not dicom_rows:
        return b""
    key = project_key(rows.root)
    rows.patient = [patient and pseudonym(patient, key) for patient in rows.patient]
    if not known:
        given = [patient_id(rows.root / rows.path[row]) or "" for row in dicom_rows]
        names, _ = one_name_each(given, "", "patient", "patients")
        for row, name in zip(dicom_rows, names, strict=True):
            rows.patient[row] = name and pseudonym(name, key)
        rows.notes += doubtful_ids(given, names)
    return key


def inspect(
    path: Path,
    look_at: Literal["pixels", "header", "file"] = "pixels",
    frame: Frame = "middle",
    window: Window = None,
) -> Facts:
    """Open one file: its size in pixels, its hash, and what is wrong with it.

    Args:
        path: the file, or a frame's name.
        frame, window: which frame of several is decoded, and through which window.
        look_at: "pixels" decodes it, "header" reads no further than its size, "file" only tells its hash and format.

    Returns:
        Facts; its `problem` is "" for a usable image.
    """
    sha256 = ""
    try:
        if not stat.S_ISREG(file_of(path).stat().st_mode):  # a pipe would never end
            return Facts(problem="a folder, not an image" if file_of(path).is_dir() else "not a regular file")
        sha256 = file_hash(path)
        found = Facts(sha256=sha256, format=reading.format_of(path))
        if found.format == "DICOM":
            seen = reading.overview(path, frame)
            found = found._replace(problem=why_no_picture(seen.origin), **seen._asdict())
        elif found.format in reading.OF_SEVERAL:
            found = found._replace(n_frames=reading.n_frames(path))
        if look_at == "file" or found.problem:
            return found
        if look_at == "pixels":
            look = reading.check(path, window=window, frame=frame)
            return found._replace(width=look.width, height=look.height, levels=look.levels)
        probe = reading.probe(path)
        return found._replace(width=probe.width, height=probe.height)
    except ReadError as error:
        return Facts(sha256=sha256, problem=error.problem)
    except OSError as error:
        return Facts(sha256=sha256, problem=f"cannot be opened: {error.strerror}")


def file_hash(path: Path) -> str:
    """The file's SHA-256 in hex, read in pieces; that of a frame is made of its file's and its number."""
    file, number = file_and_frame(path)
    if number is None:
        return sha256_of(file)
    facts = file.stat()
    whole = _kept_hash(file, facts.st_ino, facts.st_mtime_ns, facts.st_size)
    return hashlib.sha256(f"{whole}#{number}".encode()).hexdigest()


@lru_cache(maxsize=64)
def _kept_hash(path: Path, *_unchanged: int) -> str:
    return sha256_of(path)


def is_scanned(data: Any) -> bool:
    """Whether it is a table that `scan` gave, which need not be scanned again."""
    return isinstance(data, pd.DataFrame) and {"path", "sha256", "problem"} <= set(data.columns)


def scanned_already(data: Any, given: Mapping[str, Any], frame: Frame) -> pd.DataFrame | None:
    """A copy of a table that `scan` gave, which another scan would take its patients and its folder from; or None.

    Args:
        data: what may be such a table.
        given: the further arguments of `scan`, which come too late.
        frame: "all" where each frame is an image.

    Raises:
        DataError: there are such arguments, or the table does not list the frames.
    """
    if not is_scanned(data) or "root" not in data.attrs:
        return None
    if given:
        text = f"the table was scanned already, so {next(iter(given))} changes nothing"
        raise DataError(text, "give it to scan, which made the table")
    if frame == "all" and "frame_number" not in data:
        raise DataError(
            "each frame is an image here, and the table has files", f"scan them with {argument('frame', 'all')}"
        )
    table: pd.DataFrame = data.copy()
    table.attrs = dict(data.attrs)
    return table


def with_problems(table: pd.DataFrame, problems: Mapping[str, str]) -> pd.DataFrame:
    """The table with what was found out about files after the scan.

    Args:
        table: as `scan` returns it.
        problems: path with the root (as `str(root / path)`) -> reason; a reason that the table gives already stays.

    Returns:
        A copy.

    Example:
        >>> table = pd.DataFrame({"path": ["a.png", "b.png"], "problem": ["", ""]})
        >>> table.attrs["root"] = "data"
        >>> with_problems(table, {"data/b.png": "truncated"})["problem"].tolist()
        ['', 'truncated']
    """
    table = table.copy()
    root = Path(table.attrs.get("root", "."))
    found = [problems.get(str(root / path), "") for path in table["path"]]
    table["problem"] = [was or new for was, new in zip(table["problem"], found, strict=True)]
    return table


def _tell(table: pd.DataFrame, rows: Rows, strict: bool) -> None:
    bad = table[table["problem"] != ""]
    if len(bad) == len(table):
        remedy = remedy_for(bad["problem"], rows.root)
        raise DataError(f"{rows.root}: none of {len(table)} images can be used: {listing(bad)}", remedy)
    if len(bad) and strict:
        raise DataError(f"{len(bad)} of {len(table)} images cannot be used: {listing(bad)}", "repair or remove them")
    if len(bad):
        _warn(f"{len(bad)} of {len(table)} images cannot be used and are left out: {listing(bad)}")
    notes = [*rows.notes, *label_warnings(table)]
    for sentence in notes:
        _warn(sentence)
    note(table, *notes)


def note(table: pd.DataFrame, *sentences: str) -> None:
    """Keep what was warned of with the table, in `attrs["notes"]`, for results.json and the page."""
    if sentences:
        table.attrs["notes"] = [*table.attrs.get("notes", ()), *sentences]


def listing(bad: pd.DataFrame, at_most: int = 5) -> str:
    """The first paths with their problems, for a message."""
    shown = [
        f"{path} ({problem})" for path, problem in zip(bad["path"][:at_most], bad["problem"][:at_most], strict=True)
    ]
    return "; ".join(shown) + (f"; and {len(bad) - at_most} more" if len(bad) > at_most else "")


def _warn(text: str) -> None:
    warnings.warn(text, MedclfWarning, stacklevel=4)
