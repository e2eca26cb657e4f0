"""What a reader said of some images, applied to a table of them: labels corrected, poor images left out."""

from __future__ import annotations

import hashlib
import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from medclf.dataset.cells import text_of
from medclf.dataset.columns import BLANK, POOR
from medclf.dataset.csv_reading import read_csv
from medclf.dataset.frames import file_names
from medclf.dataset.labels import NO_FINDING, count_labels, label_set
from medclf.dataset.matching import UNKNOWN
from medclf.dataset.units import UNIT, units_word
from medclf.errors import DataError

WRONG, UNSURE, NEW = "label wrong", "unsure", "new label"
MARKS = (WRONG, UNSURE, POOR, NEW)
COLUMNS = ("path", "label", "mark", "new_label", "note")
NONE = NO_FINDING
LEFT_OUT = {POOR: POOR, WRONG: "its label is wrong and no other was given"}


@dataclass(frozen=True)
class Corrections:
    """The marks of one file.

    Args:
        rows: path, label (as the reader saw it; several with `|` between them), mark, new_label, note; all text.
        name: of the file.
        sha256: of the file.
    """

    rows: pd.DataFrame
    name: str
    sha256: str


def read_corrections(path: str | Path) -> Corrections:
    """Read a review.csv, as the report page and `medclf review import` write it.

    Args:
        path: a CSV with the columns path, mark and new_label; label and note where there are any.

    Raises:
        DataError: a column is missing, an image is there twice, a mark is unknown, or a new label is lacking.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "review.csv"
        >>> _ = file.write_text('path,label,mark,new_label\\na.png,x,new label,y\\n')
        >>> read_corrections(file).rows.iloc[0].to_dict()
        {'path': 'a.png', 'label': 'x', 'mark': 'new label', 'new_label': 'y', 'note': ''}
    """
    path = Path(path)
    frame = read_csv(path)
    if "path" not in frame and "row" in frame:
        raise DataError(
            f"{path} names rows of a run, not images",
            f"medclf review import RUN {shlex.quote(str(path))} writes it with their paths",
        )
    missing = [column for column in ("path", "mark", "new_label") if column not in frame]
    if missing:
        raise DataError(f"{path} has no column '{missing[0]}'", f"it needs {', '.join(COLUMNS)}, as review.csv has")
    rows = pd.DataFrame({column: plain(frame, column) for column in COLUMNS}, dtype=object)
    check_marks(rows, path)
    return Corrections(rows, path.name, hashlib.sha256(path.read_bytes()).hexdigest())


def plain(frame: pd.DataFrame, column: str) -> list[str]:
    """A column as text, without the `'` that keeps a spreadsheet from running a cell; "" where there is none.

    Example:
        >>> plain(pd.DataFrame({"path": ["'=1.png", " a.png"]}), "path")
        ['=1.png', 'a.png']
        >>> plain(pd.DataFrame({"mark": ["Poor image"]}), "mark")
        ['poor image']
    """
    if column not in frame:
        return [""] * len(frame)
    texts = [text_of(cell) for cell in frame[column]]
    texts = [text.casefold() for text in texts] if column == "mark" else texts  # as a phone's keyboard begins it
    return [text[1:] if text[:1] == "'" and text[1:2] in tuple("=+-@") else text for text in texts]


def check_marks(rows: pd.DataFrame, name: Any) -> None:
    """Raise DataError for an image that is there twice, an unknown mark, or a new label that is lacking."""
    for number, (path, mark, new_label) in enumerate(rows[["path", "mark", "new_label"]].itertuples(index=False), 1):
        where = f"{name}, row {number}"
        if not path:
            raise DataError(f"{where} names no image", "remove it, or fill in its path")
        if mark and mark not in MARKS:
            raise DataError(f"{where}: the mark '{mark}' is unknown", f"choose one of {', '.join(MARKS)}")
        if mark == NEW and not new_label:
            raise DataError(f"{where}: {path} is to get a new label, and none is given", "fill in new_label")
    path, times = Counter(rows["path"]).most_common(1)[0] if len(rows) else ("", 0)
    if times > 1:
        raise DataError(f"{name}: {path} is there {times} times", "keep one row an image")


def correct(table: pd.DataFrame, corrections: Corrections) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Apply corrections to a table; no file is changed.

    A new label replaces the old one, whatever the mark, but for "unsure" and "poor image". A poor image, and one whose
    label is wrong without another being given, are left out: their `problem` says so. An unsure one stays as it is.

    Args:
        table: as `scan` returns it.
        corrections: of its images.

    Returns:
        A copy with two columns more: correction (what was done, "" where nothing) and label_before. And what was done,
        for results.json: counts, a sentence and the rows.

    A path without folders, as the service's page gives it, may also be the name of the one image that has it. A file of
    several frames that are images each (see `scan(frame="all")`) stands for all of them. Where the table has units (see
    `with_units`), a label counts for the unit: the other images that had the same label get it, too.

    Raises:
        DataError: an image that the table has not, a name that several images have, an image that two rows are about, a
            label that it does not have there, one that no image has, one for frames of several, or two for a unit.
    """
    table, name = table.copy(), corrections.name
    several = bool(table.attrs.get("multi_label"))
    place = {path: index for index, path in zip(table.index, table["path"], strict=True)}
    known = count_labels(table["label"])
    before = {path: label_set(table.at[row, "label"]) for path, row in place.items()}
    table["correction"], table["label_before"] = "", ""
    meant, by_name, by_file = _images_meant(table, corrections)
    seen = {path for paths in meant for path in paths}
    beside = _Units(table, before, several)
    done: dict[str, dict[str, str]] = {}
    by_unit = 0
    for number, (given, label, mark, new_label, _) in enumerate(corrections.rows.itertuples(index=False), 1):
        where, paths = f"{name}, row {number}", meant[number - 1]
        now = labels_in(new_label, several) if new_label and mark not in (UNSURE, POOR) else None
        _check_new(now, {"|".join(before[path]) for path in paths}, known, f"{where}: {given}")
        for path in paths:
            was = set(labels_in(label, several))
            if label and was not in (set(before[path]), beside.labels(path)):
                raise DataError(
                    f"{where}: {path} has the label '{'|'.join(before[path])}' in the data, and had '{label}' when it "
                    "was reviewed",
                    "review it again: the data have changed",
                )
        others = [path for path in beside.of(paths[0]) if path not in seen] if now is not None or mark == WRONG else []
        by_unit += len([path for path in others if path not in done])
        for path in (*paths, *others):
            after = "" if now is None and mark in LEFT_OUT else "|".join(before[path] if now is None else now)
            if path in done and done[path]["now"] != after:
                text = f"{where}: {path} is of the same {beside.word} as an image of another row, which says otherwise"
                raise DataError(text, f"say the same of all images of a {beside.word}")
            if path not in done:
                action = _correct_one(table, place[path], mark, now if several or now is None else now[0], name)
                then = "|".join(before[path])
                done[path] = {"path": path, "done": action, "before": then, "now": after, "mark": mark}
    told = [f"{by_unit} of them are the other images of a {beside.word} whose label was corrected."] if by_unit else []
    if by_name:
        told.append(
            f"{by_name} of the {len(done)} were matched by file name alone: that is right only where {name} is about "
            "images of these data."
        )
    if by_file:
        told.append(f"{by_file} rows name a file of several frames: what they say counts for each frame.")
    return table, _summary([*done.values()], told, corrections) | {"matched_by_name": by_name}


def _images_meant(table: pd.DataFrame, corrections: Corrections) -> tuple[list[list[str]], int, int]:
    """The images that each row is about, how many were found by name alone, and how many rows name a file of frames."""
    paths = list(table["path"])
    frames: dict[str, list[str]] = {}
    for file, path in zip(file_names(table), paths, strict=True):
        frames.setdefault(file, []).append(path)
    known = dict.fromkeys([*paths, *frames])
    named: dict[str, list[str]] = {}
    for path in known:
        named.setdefault(str(path).rpartition("/")[2], []).append(path)
    images, seen, by_name, by_file = set(paths), set[str](), 0, 0
    meant: list[list[str]] = []
    for number, given in enumerate(corrections.rows["path"], 1):
        where = f"{corrections.name}, row {number}"
        found = given if given in known else _only(given, named.get(given, []), where)
        meant.append([found] if found in images else frames[found])
        if twice := [path for path in meant[-1] if path in seen]:
            text = f"{where}: {given} is {twice[0]}, which another row is about, too"
            raise DataError(text, "keep one row an image")
        seen.update(meant[-1])
        by_name += (found != given) * len(meant[-1])
        by_file += found not in images
    return meant, by_name, by_file


class _Units:
    """Which images have one label together: those of a unit, where the table has units."""

    def __init__(self, table: pd.DataFrame, before: Mapping[str, tuple[str, ...]], several: bool) -> None:
        units = table[UNIT] if UNIT in table else table["path"]
        self.unit = dict(zip(table["path"], units, strict=True))
        self.members: dict[Any, list[str]] = {}
        for path, unit in self.unit.items():
            self.members.setdefault(unit, []).append(path)
        self.before, self.several, self.word = before, several, units_word(table.attrs.get("unit", "file"), 1)

    def of(self, path: str) -> list[str]:
        """The other images of its unit; where an image has one label, those that have the same."""
        others = [one for one in self.members[self.unit[path]] if one != path]
        return others if self.several else [one for one in others if self.before[one] == self.before[path]]

    def labels(self, path: str) -> set[str]:
        """Of its unit: all that any of its images has."""
        return {label for one in self.members[self.unit[path]] for label in self.before[one]}


def _check_new(now: tuple[str, ...] | None, before: set[str], known: Collection[str], where: str) -> None:
    """Raise DataError where images cannot get this label."""
    strange = [one for one in now or () if one not in known]
    if strange:
        some = ", ".join(sorted(known)[:8])
        raise DataError(f"{where}: no image of the data has the label '{strange[0]}'", f"they have {some}")
    if now is not None and len(before) > 1:
        text = f"{where} has frames of several labels: {', '.join(sorted(before))}"
        raise DataError(text, "name the frame that is meant, as FILE#NUMBER")


def _correct_one(table: pd.DataFrame, row: Any, mark: str, now: Any, name: str) -> str:
    """Correct one row in place: what was done."""
    if now is not None:
        table.at[row, "label_before"] = joined(table.at[row, "label"])
        table.at[row, "label"] = now
        if UNKNOWN in table:  # a reader who says what an image shows has looked for all of it
            table.at[row, UNKNOWN] = ()
        if table.at[row, "problem"] == BLANK:
            table.at[row, "problem"] = ""
        action = "relabelled"
    elif mark in LEFT_OUT:
        table.at[row, "problem"] = table.at[row, "problem"] or f"{LEFT_OUT[mark]} ({name})"
        action = "left out"
    else:
        action = "kept"
    table.at[row, "correction"] = action
    return action


def _only(name: str, paths: list[str], where: str) -> str:
    """The path of the one image of that file name."""
    if not paths:
        raise DataError(f"{where}: the data have no image {name}", "is the file a review of other data?")
    if len(paths) > 1:
        raise DataError(
            f"{where}: {len(paths)} images are named {name}: {', '.join(paths[:3])}{', ...' * (len(paths) > 3)}",
            "write the path of the one that is meant, from the folder of the data on",
        )
    return paths[0]


def labels_in(text: str, several: bool) -> tuple[str, ...]:
    """The labels that a cell names.

    Example:
        >>> labels_in("edema | mass", True), labels_in("(none)", True), labels_in("a|b", False)
        (('edema', 'mass'), (), ('a|b',))
    """
    if not several:
        return (text,)
    return tuple(sorted({one.strip() for one in text.split("|")} - {"", NONE}))


def joined(label: Any) -> str:
    """A label, or several with `|` between them, as text."""
    return "|".join(label_set(label))


def _summary(done: list[dict[str, str]], told: Sequence[str], corrections: Corrections) -> dict[str, Any]:
    counts = Counter(row["done"] for row in done)
    n = {action: counts[action] for action in ("relabelled", "left out", "kept")}
    sentence = (
        f"After a second read, {n['relabelled']} image{' has' if n['relabelled'] == 1 else 's have'} another label, "
        f"{n['left out']} {'is' if n['left out'] == 1 else 'are'} left out and {n['kept']} "
        f"{'stays as it was' if n['kept'] == 1 else 'stay as they were'}. Where images were chosen because a model "
        "disagreed with their labels, numbers on them flatter that model and its like."
    )
    return {
        "sentence": " ".join([sentence, *told]),
        "file": corrections.name,
        "sha256": corrections.sha256,
        "relabelled": n["relabelled"],
        "left_out": n["left out"],
        "kept": n["kept"],
        "images": done,
    }
