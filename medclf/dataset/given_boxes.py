"""What a file of boxes says of an image, before anything of it is checked."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from medclf.dataset.labels import NO_FINDING
from medclf.dataset.matching import spelling
from medclf.dataset.spelt_names import NOTHING
from medclf.errors import DataError

Corners = tuple[float, float, float, float]
"""x_min, y_min, x_max, y_max; NaN where the file holds no number."""
Writing = Literal["corners", "size", "centre"]
"""How a file writes a box: two corners, the upper left one with width and height, or the centre with these."""

_BACKGROUND = "background"  # as detectors call what is no finding
_SCORE = {"score", "scores", "confidence", "conf", "probability", "prob"}
_GRADES = 10  # whole numbers up to it are grades, certainties of readers, or counts
_NONE = {spelling(one) for one in ("no finding", "no findings", "no-finding", "nofinding", NO_FINDING)}


@dataclass(frozen=True)
class GivenBox:
    """A box as its file has it.

    Args:
        label: what it shows; one that says "no finding" makes it no box.
        corners: in pixels, or in shares of the image (see `GivenImage`); x_max and y_max are the first that are not in.
        problem: what its file says against it; "" where nothing.
        where: it stands in its file, such as "row 3".
        doubtful: whether its file marks it as difficult or to be ignored.
        writing: how its file has it.
        scores: what its file calls a score or a probability of it; see `scores_in`.
    """

    label: str
    corners: Corners
    problem: str = ""
    where: str = ""
    doubtful: bool = False
    writing: Writing = "corners"
    scores: tuple[tuple[str, float], ...] = ()

    @property
    def is_none(self) -> bool:
        """Whether it says that there is no finding.

        Example:
            >>> GivenBox("No finding", (0, 0, 1, 1)).is_none, GivenBox("finding", (0, 0, 9, 9)).is_none
            (True, False)
        """
        return spelling(self.label) in _NONE

    @property
    def is_background(self) -> bool:
        """Whether it is of the class that detectors have for what is no finding.

        Example:
            >>> GivenBox("__background__", (0, 0, 1, 1)).is_background
            True
        """
        return spelling(self.label) == _BACKGROUND

    @property
    def is_finding(self) -> bool:
        """Whether its label is that of a finding."""
        return not (self.is_none or self.is_background)


@dataclass
class GivenImage:
    """What a file of boxes says about an image.

    Args:
        name: of the image, as the file has it: a path, a name, or a name without its ending.
        size: (width, height) in pixels that the boxes were drawn at; None where it is not said.
        boxes: none where the file says that the image shows no finding.
        in_shares: whether corners are shares of the image, from 0 to 1, instead of pixels.
        or_name: a second name, where no image has the first.
    """

    name: str
    size: tuple[float, float] | None = None
    boxes: list[GivenBox] = field(default_factory=list)
    in_shares: bool = False
    or_name: str = ""


def number(value: Any) -> float:
    """`value` as a finite number; NaN where it is none.

    Example:
        >>> number("3.5"), number(True), number("wide")
        (3.5, nan, nan)
    """
    if isinstance(value, bool):
        return math.nan
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return found if math.isfinite(found) else math.nan


def scores_in(entry: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
    """The numbers that an entry calls scores, each with its name.

    Example:
        >>> scores_in({"Confidence (%)": "87 %", "detectionScore": 0.5, "problem": 3, "prob": "", "label": "polyp"})
        (('Confidence (%)', 87.0), ('detectionScore', 0.5))
    """
    named = ((name, value) for name, value in entry.items() if _is_score(name))
    texts = ((name, value.rstrip("% ").replace(",", ".") if isinstance(value, str) else value) for name, value in named)
    return tuple((name, found) for name, value in texts if not math.isnan(found := number(value)))


@functools.lru_cache(maxsize=1024)
def _is_score(name: str) -> bool:
    return not _SCORE.isdisjoint(re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()))


def check_scores(images: Iterable[GivenImage], path: Path) -> None:
    """See that boxes have no scores, as what a detector predicts has: shares, or percentages that vary.

    The same whole number everywhere, such as 1 or 100, says nothing, nor do grades.

    Raises:
        DataError: they have some.
    """
    given: dict[str, list[tuple[float, str]]] = {}
    for image in images:
        for box in image.boxes:
            for name, score in box.scores:
                given.setdefault(name, []).append((score, f"{image.name[-60:]}, {box.where}"))
    for name, found in given.items():
        values = {score for score, _ in found}
        percent = len(values) > 1 and min(values) >= 0 and _GRADES < max(values) <= 100
        score, where = next((one for one in found if not one[0].is_integer()), found[0])
        if percent or not score.is_integer():
            text = f"{path}: the box of {where}, has the score {score:g} ({name}): that is a detector's answer"
            raise DataError(text, f"give the boxes that people drew; if these are, take {name} out of the file")


def check_labels(images: Iterable[GivenImage], path: Path) -> None:
    """See that no label has the sign that separates several labels in medclf's files.

    Raises:
        DataError: one has it.
    """
    for image in images:
        for box in image.boxes:
            if "|" in box.label:
                text = f"{path}: the box of {image.name[-60:]}, {box.where}, has the label '{box.label}'"
                remedy = "give each of them a box of its own; if it is one label, rename it"
                raise DataError(f"{text}: medclf's files write several labels so, and a box has one", remedy)


def size_of(width: Any, height: Any) -> tuple[float, float] | None:
    """An image's size; None where it is not said."""
    size = (number(width), number(height))
    return size if min(size) > 0 else None  # some writers leave zeros


def label_of(value: Any, path: Path, where: str) -> str:
    """A box's label.

    Raises:
        DataError: it has none.
    """
    if not isinstance(value, (str, int)) or isinstance(value, bool) or str(value).strip().lower() in NOTHING:
        raise DataError(f"{path}: a box of {where[:60]!r} has no label", "give each box one")
    return str(value).strip()


def box_of(label: str, values: Sequence[Any], where: str) -> GivenBox:
    """A box of its corners as the file has them."""
    x_min, y_min, x_max, y_max = map(number, values)
    return GivenBox(label, (x_min, y_min, x_max, y_max), no_number(values), where)


def box_of_size(label: str, values: Sequence[Any], where: str, doubtful: bool = False) -> GivenBox:
    """A box of its left and upper edge, its width and its height, as the file has them."""
    x, y, width, height = map(number, values)
    return GivenBox(label, (x, y, x + width, y + height), no_number(values), where, doubtful, "size")


def no_number(values: Iterable[Any]) -> str:
    """Which value is no number; "" where all are."""
    for value in values:
        if not math.isnan(number(value)):
            continue
        text = "" if value is None else str(value).strip()
        point = text.replace(",", ".", 1)
        comma = "," in text and not math.isnan(number(point))
        return (
            f"no number: {text[:30]!r}" + (f" (write {point})" if comma else "")
            if text
            else "no number: one is missing"
        )
    return ""
