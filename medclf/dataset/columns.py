"""A CSV or DataFrame of images: its cells as labels, patients and partitions, or a named error."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
import pandas as pd

from medclf.config import Policy
from medclf.dataset.cells import SEVERAL, is_vector, label_in, text_of, typed
from medclf.dataset.labels import LIST, NO_FINDING, Label, list_in
from medclf.dataset.part_names import part_named
from medclf.dataset.spelt_names import NOTHING, SHOWN, one_name_each
from medclf.errors import DataError, argument, by_road, did_you_mean

BLANK = "blank label"
POOR = "poor image"  # how a reader marks one that no label can be told of
TRUE, FALSE = frozenset({"1", "1.0", "true"}), frozenset({"0", "0.0", "false"})
UNCERTAIN = frozenset({"-1", "-1.0", "u", "uncertain"})  # CheXpert writes -1
MEANT = ("path", "label", "patient", "partition")
FRAME = "frame_number"  # the column that says which frame of its file an image is
MEASURED = ("width", "height", "sha256", "problem")  # scan finds these out by itself
WRITTEN = frozenset({*MEANT, "pred", "loss", "unknown", "flags", "fold", "twins", "correction", "label_before"})
WRITTEN |= {"trained_before", "unit_id", "n_images", "unit_images", "contribution"}
_FILE = re.compile(r"\.(png|jpe?g|tiff?|bmp|dcm)$", re.I)
_COLUMNS_SHOWN = 40
SPLIT_COLUMN = re.compile(
    r"(data)?_?(split|set|subset|partition|part|is_(valid|test|train)|phase|usage)"
    r"|(k|cv)?[ _-]?folds?[ _-]?(id|no|\d+)?",
    re.I,
)


Labels = tuple[list[Label | None], list[str], list[tuple[str, ...]], bool]
"""Labels, problems ("" where there is none), unknown labels, and whether an image can have several."""


@dataclass(frozen=True)
class Columns:
    """Which columns mean what, and how their cells are read."""

    path: str = "path"
    label: str | list[str] | None = "label"
    label_delim: str | None = None
    patient: str | None = None
    partition: str | None = None
    exclusive: bool = False
    uncertain: Policy | None = None
    blank: Policy | None = None

    def __post_init__(self) -> None:
        if self.label_delim == "":
            raise DataError(f"{argument('label_delim')} is empty", "give what separates labels in a cell")


def part_of_flags(column: str) -> str | None:
    """The partition that 1 stands for in a column of 0 and 1, by its name; None where that says nothing.

    Example:
        >>> part_of_flags("is_test"), part_of_flags("held out")
        ('test', None)
    """
    return part_named(re.sub(r"^is[ _-]?", "", column.lower()))


@dataclass(frozen=True)
class Sheet:
    """A frame, what errors call it, which columns mean what, and whether its cells are a CSV's text.

    `notes` gathers what people should know of how its cells were read.
    """

    frame: pd.DataFrame
    name: str
    columns: Columns
    is_text: bool = False
    notes: list[str] = field(default_factory=list)

    def place(self, row: int, column: str) -> str:
        """Where a cell is, for people: rows are counted from 1 below the header."""
        return f"{self.name}, row {row + 1}, column '{column}'"

    def texts(self, column: str) -> list[str]:
        """The cells of a column as text."""
        return [text_of(cell) for cell in self.frame[column]]

    def require_columns(self) -> None:
        """Raise a DataError that names the columns there are, unless all those asked for are, and once each."""
        label = self.columns.label
        if not isinstance(label, (str, list, type(None))) or label == []:
            text = f"{argument('label_col')} must be the name of a column, or a list of several names, not {label!r}"
            raise DataError(text, "rename columns whose names are no text")
        twice = [name for name, n in Counter(label if isinstance(label, list) else ()).items() if n > 1]
        if twice:
            raise DataError(f"{argument('label_col')} names '{twice[0]}' twice", "name each column once")
        for name in ("path", "patient", "partition"):
            if not isinstance(given := getattr(self.columns, name), (str, type(None))):
                text = f"{argument(f'{name}_col')} must be the name of a column, not {given!r}"
                raise DataError(text, "rename columns whose names are no text")
        wanted = {"path_col": self.columns.path, "patient_col": self.columns.patient}
        wanted |= {"partition_col": self.columns.partition}
        asked = [(name, column) for name, column in wanted.items() if column is not None]
        asked += [("label_col", column) for column in ([label] if isinstance(label, str) else label or [])]
        if self.columns.path in ([label] if isinstance(label, str) else label or []):
            text = f"column '{self.columns.path}' of {self.name} is taken for the paths and for the labels"
            index = "path" in self.frame.index.names
            two = f"name two, with {argument('path_col', 'NAME')} and {argument('label_col', 'NAME')}"
            remedy = "its index is called path: make it a column with reset_index()" if index else two
            raise DataError(text, remedy)
        for name, column in asked:
            if column not in self.frame:
                text = f"{self.name} has no column '{column}'; it has {self._present()}"
                raise DataError(text, self._header_remedy(name, column))
            if f"{column}.1" in self.frame or (self.frame.columns == column).sum() > 1:
                raise DataError(f"{self.name} has several columns '{column}'", "give each column a name of its own")

    def _present(self) -> str:
        """The names of the columns; of very many, as pixels in a table, the first ones."""
        names = [f"'{name}'" for name in self.frame]
        more = [f"and {len(names) - _COLUMNS_SHOWN} more"] if len(names) > _COLUMNS_SHOWN else []
        return ", ".join([*names[:_COLUMNS_SHOWN], *more])

    def _header_remedy(self, name: str, column: str) -> str:
        """What to do where a column is not there: headers are missing too, or their names run together."""
        names = [str(column) for column in self.frame]
        if name == "label_col" and set(parts := re.split(r"\s*,\s*", column)) <= set(names):
            several = by_road(f"{name}={parts!r}", " ".join(argument(name, part) for part in parts))
            return f"name several columns with {several}"
        if column in self.frame.index.names:
            return "its index is called so: make it a column with reset_index()"
        if any(map(_FILE.search, names)):
            return "its first line looks like an image's: write a header line above it, such as path,label"
        if len(names) == 1 and re.search(r"[|: ]", names[0]):
            return "separate its columns with commas, semicolons or tabs"
        meant = did_you_mean(column, names)
        of_folders = f", or take the folders' names with {argument('label_from_parent', 1)}" * (column == "label")
        return f"{meant} " * bool(meant) + f"name the right one with {argument(name, 'NAME')}{of_folders}"

    def labels(self) -> Labels:
        """Labels, problems ("" where there is none), unknown labels, and whether an image can have several."""
        columns = self.columns
        if isinstance(columns.label, list):
            self._refuse("label_delim", f"takes the cells of one column apart, and {len(columns.label)} are named")
            return self._labels_from_flags(columns.label)
        self._refuse("exclusive", f"is about several columns of 0 and 1, and '{columns.label}' is one")
        if columns.uncertain or columns.blank:
            return self._labels_from_flag(str(columns.label))
        cells = self._cells(str(columns.label))
        if cells and all(isinstance(cell, str) and _FILE.search(cell) for cell in cells):
            text = f"column '{columns.label}' of {self.name} holds names of image files, not labels"
            raise DataError(text, f"name the column of labels with {argument('label_col')}")
        multi_label = columns.label_delim is not None or any(isinstance(cell, SEVERAL) for cell in cells)
        if cells and all(map(is_vector, cells)) and len({len(cell) for cell in cells}) == 1:
            text = f"column '{columns.label}' of {self.name} holds vectors of 0 and 1, which name no labels"
            raise DataError(text, f"give a column for each label ({argument('label_col')}), or lists of names")
        labels = [label_in(cell, columns.label_delim, multi_label) for cell in cells]
        blank = sum(label is None for label in labels)
        if multi_label and blank:
            self.notes.append(
                f"{blank} cells of column '{columns.label}' of {self.name} are blank or hold a blank, so their "
                f"labels are unknown: write {NO_FINDING}, or an empty list, where an image has no finding"
            )
        return labels, [BLANK if label is None else "" for label in labels], [()] * len(cells), multi_label

    def _cells(self, column: str) -> list[Any]:
        """The cells of the column of labels; lists that stand there as text, such as "['a', 'b']", as lists."""
        cells = list(self.frame[column])
        read = [list_in(cell) for cell in cells]
        if any(isinstance(cell, list) and isinstance(was, str) for cell, was in zip(read, cells, strict=True)):
            self.notes.append(f"column '{column}' of {self.name} holds lists written as text: read as several labels")
            read = [[] if cell == "()" else cell for cell in read]
            for row, cell in enumerate(read):
                if isinstance(cell, str) and LIST.fullmatch(cell.strip()):
                    text = f"{self.place(row, column)}: {cell!r} is a list that cannot be read"
                    raise DataError(text, "write it as ['a', 'b'], or leave the cell blank where no label is known")
        return read

    def _labels_from_flags(self, columns: list[str]) -> Labels:
        """Several columns of 0 and 1; a row of zeros is legal and means no finding."""
        said = {column: self._flags(column) for column in columns}
        rows = [[said[column][row] for column in columns] for row in range(len(self.frame))]
        has = [tuple(column for column, word in zip(columns, row, strict=True) if word == "positive") for row in rows]
        open_ = [tuple(column for column, word in zip(columns, row, strict=True) if word == "unknown") for row in rows]
        out = [[column for column, word in zip(columns, row, strict=True) if word == "exclude"] for row in rows]
        problems = [f"uncertain: {', '.join(left)}" if left else "" for left in out]
        self.notes.extend(
            f"column '{column}' of {self.name} has no 1: no image has that label"
            for column in columns
            if "positive" not in said[column]
        )
        self.notes.extend(
            f"column '{column}' of {self.name} has no 0: there is nothing to tell that label from"
            for column in columns
            if "negative" not in said[column] and not self.columns.exclusive
        )
        if self.columns.exclusive:
            wrong = [f"{len(found)} classes are 1 ({', '.join(found)})" if found else "no class is 1" for found in has]
            problems = [p or ("" if len(found) == 1 else w) for p, found, w in zip(problems, has, wrong, strict=True)]
            return [found[0] if len(found) == 1 else None for found in has], problems, [()] * len(rows), False
        if len(columns) > 1 and len(has) > 2 and all(len(found) == 1 for found in has):
            self.notes.append(
                f"each image of {self.name} has just one of the labels {', '.join(columns)}: "
                f"for classes that exclude each other use {argument('exclusive', True)}"
            )
        labels: list[Label | None] = [
            None if len(left) == len(columns) else found for found, left in zip(has, open_, strict=True)
        ]
        return labels, problems, open_, True

    def _refuse(self, option: str, why: str) -> None:
        if getattr(self.columns, option):
            raise DataError(f"{argument(option)} {why}", "leave one of them out")

    def _labels_from_flag(self, column: str) -> Labels:
        """One column of 0 and 1 with other cells, as one of CheXpert's: its labels are 0 and 1."""
        policies = " and ".join(argument(name) for name in ("uncertain", "blank") if getattr(self.columns, name))
        self._refuse("label_delim", f"takes names apart, and does not go with {policies}, of a column of 0 and 1")
        said = self._flags(column)
        words: dict[str, Label] = {"positive": "1", "negative": "0"}
        problems = ["" if word in words else f"uncertain: {column}" for word in said]
        return [words.get(word) for word in said], problems, [()] * len(said), False

    def _flags(self, column: str) -> list[str]:
        """What each cell says: "positive" or "negative", else what the policy makes of it."""
        cells = self.texts(column)
        words = [self._flag(column, row, cell) for row, cell in enumerate(cells)]
        for what, (kinds, policy) in self._policies.items():
            n = sum(cell.lower() in kinds for cell in cells)
            if n and policy:
                self.notes.append(f"{n} {what} cells of column '{column}' count as {policy}")
        return words

    @property
    def _policies(self) -> dict[str, tuple[frozenset[str], Policy | None]]:
        return {"uncertain": (UNCERTAIN, self.columns.uncertain), "blank": (NOTHING, self.columns.blank)}

    def _flag(self, column: str, row: int, cell: str) -> str:
        text = cell.lower()
        if text in TRUE or text in FALSE:
            return "positive" if text in TRUE else "negative"
        remedy = "decide what it means for this label and write 0 or 1"
        for name, (kinds, policy) in self._policies.items():
            if text in kinds and policy:
                return policy
            if text in kinds:
                remedy = f"say what such cells count as with {argument(name)}: {', '.join(get_args(Policy))}"
        shown = repr(cell) if cell else "a blank cell"
        raise DataError(f"{self.place(row, column)}: {shown} is neither 0 nor 1", remedy)

    def patients(self) -> list[str | None]:
        """The patient of each row as text; a column named "patient" need not be asked for.

        Texts that stand for a missing one are none; 7, 7.0 and 007 are one patient.
        """
        column = self.columns.patient or self.unasked("patient")
        if column is None:
            return [None] * len(self.frame)
        where = f"column '{column}' of {self.name}"
        names, notes = one_name_each(self.texts(column), where, "patient", "patients")
        self.notes.extend(notes)
        return names

    def partitions(self, by_folder: list[str | None]) -> list[str | None]:
        """The partition of each row; `by_folder` without such a column ("partition" need not be asked for)."""
        column = self.columns.partition or self.unasked("partition")
        if column is None:
            self._note_split_columns(by_folder)
            return by_folder
        texts = [text.lower() for text in self.texts(column)]
        if set(texts) <= TRUE | FALSE:
            return self._partitions_by_flag(column, texts)
        blank = next((row for row, text in enumerate(texts) if text in NOTHING), None)
        if blank is not None and set(texts) - NOTHING and set(texts) - NOTHING <= TRUE | FALSE:
            raise DataError(f"{self.place(blank, column)} is blank, neither 0 nor 1", "write 0 or 1 into each row")
        for row, text in enumerate(texts):
            if text not in NOTHING and part_named(text) is None:
                raise DataError(
                    f"{self.place(row, column)}: '{text}' is not a partition",
                    "write train, valid or test, or leave it blank",
                )
        parts = [part_named(text) for text in texts]
        both = zip(parts, by_folder, strict=True)
        moved = sum(None not in (part, folder) and part != folder for part, folder in both)
        if moved:
            self.notes.append(
                f"column '{column}' of {self.name} puts {moved} images into another partition than their folders' "
                "names say: the column counts"
            )
        return parts

    def _partitions_by_flag(self, column: str, texts: Sequence[str]) -> list[str | None]:
        """The partitions that 0 and 1 stand for, by the column's name: fastai's is_valid, is_test, is_train."""
        part = part_of_flags(column)
        if part is None:
            raise DataError(
                f"column '{column}' of {self.name} holds 0 and 1, and its name does not say what they mean",
                "call it is_valid, is_test or is_train, or write train, valid and test into it",
            )
        other = "valid" if part == "train" else "train"
        if part != "valid":
            self.notes.append(f"column '{column}' of {self.name}: 1 was read as {part}, and 0 as {other}")
        return [part if text in TRUE else other for text in texts]

    def _note_split_columns(self, by_folder: list[str | None]) -> None:
        """Say which columns look like a partition that nobody asked for and that the folders do not tell as well."""
        for column in self.frame:
            named = SPLIT_COLUMN.fullmatch(str(column)) or self._is_flag_of_a_part(column)
            if column in self._used() or not (named or _parts_in(self.frame[column].iloc[:200])):
                continue
            texts = [text for text in map(str.lower, self.texts(column)) if text not in NOTHING]
            if any(by_folder) and list(map(part_named, texts)) == by_folder:
                continue
            if _parts_in(texts) or (texts and set(texts) <= TRUE | FALSE):
                counts = ", ".join(f"{text} {n}" for text, n in Counter(texts).most_common(SHOWN))
                self.notes.append(
                    f"column '{column}' of {self.name} looks like the set's own partition ({counts}) and is not used: "
                    f"take it with {argument('partition_col', column)}"
                )
            elif len(set(texts)) <= 20:
                self.notes.append(
                    f"column '{column}' of {self.name} looks like the set's own folds and is not used: write train, "
                    f"valid and test into a column and take it with {argument('partition_col')}"
                )

    def _is_flag_of_a_part(self, column: Any) -> bool:
        """Whether 0 and 1 stand under a partition's name, such as Train."""
        return part_of_flags(str(column)) is not None and {text.lower() for text in self.texts(column)} <= TRUE | FALSE

    def extra(self) -> pd.DataFrame:
        """The columns without a meaning here (sex, view, group, ...); of a CSV, numbers where all are.

        One that medclf writes itself, such as `loss`, is kept under the name `loss_given`.
        """
        own = {*MEASURED} if {*MEASURED} <= set(self.frame) else set()  # of a table that scan made, measured again
        kept = [column for column in self.frame if column not in self._used() | own]
        extra = self.frame[kept].reset_index(drop=True)
        written = {*WRITTEN, *MEASURED} | (set() if own else {FRAME})
        taken = {
            column: self._free_name(f"{column}_given")
            for column in kept
            if column in written or str(column).startswith("prob_")
        }
        self.notes.extend(
            f"column '{column}' of {self.name} is kept as '{name}': the table has its own of that name"
            for column, name in taken.items()
        )
        extra = extra.rename(columns=taken)
        counts = Counter(filter(None, self.texts("group"))) if "group" in extra else Counter()
        if len(counts) < counts.total():
            self.notes.append(
                f"column 'group' of {self.name} says which images belong together ({len(counts)} groups for "
                f"{counts.total()} images), and a split keeps those on one side: rename it if it means something else"
            )
        if self.is_text:
            for column in extra:
                extra[column] = typed([text_of(cell) for cell in extra[column]])
        return extra

    def unasked(self, column: str) -> str | None:
        """A column that need not be asked for, where there is one of that name and it holds no labels."""
        label = self.columns.label
        labels = label if isinstance(label, list) else [label]
        return column if column in self.frame and column not in labels else None

    def _free_name(self, name: str) -> str:
        return self._free_name(f"{name}_given") if name in self.frame else name

    def where(self, conditions: Sequence[str]) -> Sheet:
        """The rows that meet all conditions; several values for one column mean any of them.

        Args:
            conditions: COL=VALUE or COL!=VALUE, each as text.

        Raises:
            DataError: a condition is something else, there is no such column, or no row meets them.
        """
        wanted: dict[tuple[str, bool], set[str]] = {}
        for condition in conditions:
            name, sign, value = re.split(r"(!=|==?|$)", condition, maxsplit=1)
            if not sign or name.strip() not in self.frame:
                text = f"where '{condition}' names no column of {self.name}: {self._present()}"
                raise DataError(text, "write COLUMN=VALUE")
            wanted.setdefault((name.strip(), sign != "!="), set()).add(value.strip())
        keep = np.ones(len(self.frame), bool)
        for (name, same), values in wanted.items():
            texts = self.texts(name)
            keep &= np.array([(text in values) == same for text in texts], bool)
            if not keep.any():
                some = ", ".join(map(repr, sorted(set(texts))[:10]))
                raise DataError(f"no row of {self.name} meets {' and '.join(conditions)}", f"'{name}' has {some}")
        self.notes.append(f"{keep.sum()} of {len(keep)} rows of {self.name} meet {' and '.join(conditions)}")
        frame = self.frame[keep].reset_index(drop=True)
        return Sheet(frame, f"{self.name} (filtered)", self.columns, self.is_text, self.notes)

    def _used(self) -> set[str]:
        columns = self.columns
        used = {columns.path, columns.patient or "patient", columns.partition or "partition"}
        return used | ({columns.label} if isinstance(columns.label, str) else set(columns.label or []))


def _parts_in(cells: Iterable[Any]) -> bool:
    """Whether all cells speak of partitions, and of more than one."""
    parts = {part_named(text) for text in {text_of(cell).lower() for cell in cells} - NOTHING}
    return None not in parts and len(parts) > 1


def refuse_review(name: str, columns: Iterable[Any], texts: Callable[[str], Iterable[str]]) -> None:
    """See that labels are not those of a review, which its other columns correct.

    Args:
        name: of what was given as labels.
        columns: that it has.
        texts: column -> its cells.

    Raises:
        DataError: they are.
    """
    asked = {"mark", "new_label"}
    if asked <= set(columns) and any(map(any, map(texts, asked))):
        text = f"{name} is a review: its column 'label' holds the labels that mark and new_label correct"
        raise DataError(text, f"give the labels as they are, and the review to a training as {argument('corrections')}")
